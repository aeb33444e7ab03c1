BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
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
);
INSERT INTO "integrations" VALUES(1,'user-1','google','ya29.frozen-access-1','1//frozen-refresh-1','Bearer',NULL,NULL,0,NULL,NULL,'2026-11-25 17:17:21','2026-11-25 17:17:21');
INSERT INTO "integrations" VALUES(2,'user-2','google','ya29.frozen-access-2',NULL,'Bearer',NULL,NULL,0,NULL,NULL,'2026-11-25 17:17:21','2026-11-25 17:17:21');
INSERT INTO "integrations" VALUES(3,'user-3','google','','1//frozen-refresh-3','Bearer',NULL,NULL,0,NULL,NULL,'2026-11-25 17:17:21','2026-11-25 17:17:21');
INSERT INTO "integrations" VALUES(4,'user-4','google','ya29.frozen-access-4',NULL,'Bearer',NULL,NULL,0,NULL,NULL,'2026-11-25 17:17:21','2026-11-25 17:17:21');
INSERT INTO "integrations" VALUES(5,'user-5','google','ya29.frozen-access-5','1//frozen-refresh-5','Bearer',NULL,NULL,0,NULL,NULL,'2026-11-25 17:17:21','2026-11-25 17:17:21');
COMMIT;
