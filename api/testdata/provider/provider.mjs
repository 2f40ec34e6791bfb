// An OpenID provider on any free port of the loopback. It prints its issuer URL when it is ready.
import http from 'node:http'
import { generateKeyPairSync } from 'node:crypto'
import Provider from 'oidc-provider'

const key = (type, options, extra) => ({ ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), use: 'sig', ...extra })
const server = http.createServer()
await new Promise((ready) => server.listen(0, '127.0.0.1', ready))
const issuer = `http://127.0.0.1:${server.address().port}`
const resources = ['https://vault.example', 'https://other.example']

const provider = new Provider(issuer, {
  jwks: { keys: [key('ec', { namedCurve: 'P-256' }, { alg: 'ES256', kid: 'ec-1' }), key('rsa', { modulusLength: 2048 }, { alg: 'RS256', kid: 'rsa-1' })] },
  clients: [
    { client_id: 'service', client_secret: 'service-secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [] },
    { client_id: 'bound', client_secret: 'bound-secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [], tls_client_certificate_bound_access_tokens: true },
    { client_id: 'console', token_endpoint_auth_method: 'none', grant_types: ['authorization_code'], redirect_uris: ['https://console.example/callback'], response_types: ['code'] },
  ],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true },
    dPoP: { enabled: true },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      getCertificate: (ctx) => (ctx.get('x-test-certificate') ? `-----BEGIN CERTIFICATE-----\n${ctx.get('x-test-certificate')}\n-----END CERTIFICATE-----` : undefined),
    },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      defaultResource: () => resources[0],
      getResourceServerInfo: (ctx, resource) => {
        if (!resources.includes(resource)) throw new Error('no such resource')
        return { audience: resource, scope: 'vault.read vault.write', accessTokenFormat: 'jwt', accessTokenTTL: 600, jwt: { sign: { alg: 'ES256' } } }
      },
    },
  },
  extraTokenClaims: () => ({ org: 'org-1', device: { posture: 'managed' } }),
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  // Whoever logs in has granted what is asked for.
  loadExistingGrant: async (ctx) => {
    const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId })
    grant.addOIDCScope('openid')
    for (const resource of resources) grant.addResourceScope(resource, 'vault.read vault.write')
    await grant.save()
    return grant
  },
  cookies: { keys: ['test'] },
})
server.on('request', provider.callback())
console.log(issuer)
process.stdin.resume().on('end', () => process.exit(0)) // it ends with whoever started it
