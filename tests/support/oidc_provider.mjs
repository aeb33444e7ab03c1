// oidc-provider on a free port of loopback, with rotating refresh tokens. It prints its URL; /counts says what it answered.
// With a folder as argument, it speaks TLS, asks for certificates, and knows the clients that prove themselves with keys.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { Provider } from 'oidc-provider';

const counts = {};

async function count(ctx, next) {
  if (ctx.path === '/counts') {
    ctx.body = counts;
    return;
  }
  await next();
  if (ctx.path === '/token') {
    const answer = `${ctx.oidc.params.grant_type} ${ctx.status}`;
    counts[answer] = (counts[answer] ?? 0) + 1;
  }
}

const folder = process.argv[2];
const read = (name) => readFileSync(`${folder}/${name}`);
const server = folder
  ? createTlsServer({
    key: read('localhost.key'), cert: read('localhost.pem'), ca: read('authority.pem'), requestCert: true, rejectUnauthorized: false,
  })
  : createServer();

const withKeys = folder ? [
  {
    client_id: 'client-jwt', token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'ES256',
    jwks: JSON.parse(read('jwks.json')),
  },
  { client_id: 'client-tls', token_endpoint_auth_method: 'tls_client_auth', tls_client_auth_san_dns: 'client.example' },
].map((client) => ({ ...client, grant_types: ['client_credentials'], redirect_uris: [], response_types: [] })) : [];

server.listen(0, '127.0.0.1', () => {
  const url = `${folder ? 'https://localhost' : 'http://127.0.0.1'}:${server.address().port}`;
  const provider = new Provider(url, {
    clients: [{
      client_id: 'client-1',
      client_secret: 'client-secret-SENTINEL',
      redirect_uris: ['http://127.0.0.1/callback'],
      grant_types: ['authorization_code', 'refresh_token'],
    }, ...withKeys],
    features: {
      clientCredentials: { enabled: true },
      mTLS: {
        enabled: true,
        tlsClientAuth: true,
        getCertificate: (ctx) => ctx.socket.getPeerX509Certificate?.(),
        certificateAuthorized: (ctx) => ctx.socket.authorized,
        certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_san_dns'
          && ctx.socket.getPeerX509Certificate().subjectAltName === `DNS:${expected}`,
      },
      revocation: { enabled: true },
    },
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'tls_client_auth', 'none'],
    pkce: { required: () => true },
    rotateRefreshToken: true,
    scopes: ['openid', 'offline_access'],
    ttl: { AccessToken: 3600, RefreshToken: 86400, Grant: 86400, Session: 3600, Interaction: 600 },
  });
  provider.use(count);
  server.on('request', provider.callback());
  console.log(url);
});
