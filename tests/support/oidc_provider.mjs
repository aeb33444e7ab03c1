// oidc-provider on a free port of loopback, with rotating refresh tokens. It prints its URL; /counts says what it answered.

import { createServer } from 'node:http';
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

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const url = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(url, {
    clients: [{
      client_id: 'client-1',
      client_secret: 'client-secret-SENTINEL',
      redirect_uris: ['http://127.0.0.1/callback'],
      grant_types: ['authorization_code', 'refresh_token'],
    }],
    features: { revocation: { enabled: true } },
    pkce: { required: () => true },
    rotateRefreshToken: true,
    scopes: ['openid', 'offline_access'],
    ttl: { AccessToken: 3600, RefreshToken: 86400, Grant: 86400, Session: 3600, Interaction: 600 },
  });
  provider.use(count);
  server.on('request', provider.callback());
  console.log(url);
});
