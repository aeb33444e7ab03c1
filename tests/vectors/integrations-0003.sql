BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE integrations (
	id INTEGER NOT NULL, 
	user_id VARCHAR(255) NOT NULL, 
	provider VARCHAR(64) NOT NULL, 
	access_token TEXT, 
	refresh_token TEXT, 
	token_type VARCHAR(32) DEFAULT 'Bearer' NOT NULL, 
	scope VARCHAR(4096), 
	expires_at DATETIME, 
	reauthorization_required BOOLEAN DEFAULT 0 NOT NULL, 
	refresh_lease VARCHAR(36), 
	refresh_lease_until DATETIME, 
	created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	updated_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (user_id, provider)
, 
	CONSTRAINT "ck_integrations_access_token_encrypted" CHECK (access_token GLOB 'sealchemy:v1:????????????:?*')
, 
	CONSTRAINT "ck_integrations_refresh_token_encrypted" CHECK (refresh_token GLOB 'sealchemy:v1:????????????:?*')
);
INSERT INTO "integrations" VALUES(1,'user-1','google','sealchemy:v1:966dc34d3cf8:qOF7w01jV5Iai/SvHaQaqNrof17v3YuJFYo6F4mQoM7PZwaW64/73gc/fNh823U3SY3CDTgzuYb15w2v','sealchemy:v1:966dc34d3cf8:qOF7w01jV5Iai/SvgbZO31OU0Ugnp5SCTIPLI4SptjzPjPAVmmyY+eEIjSQx4B5uvKZ6Zqb4gQtLA3Q=','Bearer',NULL,NULL,0,NULL,NULL,'2026-11-25 17:17:23','2026-11-25 17:17:23');
INSERT INTO "integrations" VALUES(2,'user-2','google','sealchemy:v1:966dc34d3cf8:qOF7w01jV5Iai/SvBQsKRcso6p0AIoOICgjZ0ISvp0ZqV+gb3eaxti/DwleGZaGOuJ8gyw5OTBVGKpVK',NULL,'Bearer',NULL,NULL,0,NULL,NULL,'2026-11-25 17:17:23','2026-11-25 17:17:23');
INSERT INTO "integrations" VALUES(3,'user-3','google','sealchemy:v1:966dc34d3cf8:qOF7w01jV5Iai/Svz8Jb+EnadXCcl2jaFOKyBxFvPMJUVRH9h5bjpg==','sealchemy:v1:966dc34d3cf8:qOF7w01jV5Iai/SveY0dmoZF24FgjbUMp5si5TnFxCS5dGAIk67OhxYwykrjN9Uiia3ElU7m5qW7BTo=','Bearer',NULL,NULL,0,NULL,NULL,'2026-11-25 17:17:23','2026-11-25 17:17:23');
INSERT INTO "integrations" VALUES(4,'user-4','google','sealchemy:v1:966dc34d3cf8:qOF7w01jV5Iai/SvHtAiVeAGYXxCCWwbI55DwVU3jFjVycoZGH0s7b4GOUrmAkBzYYqI1wFNbg2YY4Hy',NULL,'Bearer',NULL,NULL,0,NULL,NULL,'2026-11-25 17:17:23','2026-11-25 17:17:23');
INSERT INTO "integrations" VALUES(5,'user-5','google','sealchemy:v1:966dc34d3cf8:qOF7w01jV5Iai/SvgEqlMdB+oTOdkMz3E+Lrli6TvL7QHYP7LKDAchj2cy2XIKyQcRmADvvOXgZ51CYi','sealchemy:v1:966dc34d3cf8:qOF7w01jV5Iai/SvKyoJS/srb5Ndud8UNRiPTIkl4/pb6fDmvILr21SEs+O5JgwN/fV83LwP4NPZkoA=','Bearer',NULL,NULL,0,NULL,NULL,'2026-11-25 17:17:23','2026-11-25 17:17:23');
COMMIT;
