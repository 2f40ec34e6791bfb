// Package api is the HTTP contract: routes, authentication, strict decoding, limits, problems. Handlers are thin; what
// they call is a *vault.Vault. openapi.yaml beside this file is the contract's text; a test holds the two together.
package api

import (
	_ "embed"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/privault/privault/api/identity"
	"github.com/privault/privault/api/limit"
	"github.com/privault/privault/vault"
)

// Contract is the OpenAPI document that the server serves and keeps to.
//
//go:embed openapi.yaml
var Contract []byte

// Config is what a Server needs.
type Config struct {
	Vault   *vault.Vault
	Log     *slog.Logger
	Metrics *prometheus.Registry
	HSTS    bool // the public listener speaks TLS

	Authority *identity.Authority // who else than the vault vouches for callers; nil: nobody
	Proxies   []netip.Prefix      // whose X-Forwarded-For counts; empty: nobody's
	SeenAs    *url.URL            // scheme and host under which callers know this server; nil: as the request says
	Limits    *limit.Limiter      // nil: no limits
	Now       func() time.Time    // nil: time.Now
}

// Server answers HTTP. Its two handlers belong on two listeners.
type Server struct {
	vault   *vault.Vault
	log     *slog.Logger
	metrics *httpMetrics
	hsts    bool
	public  *echo.Echo
	ops     http.Handler

	authority *identity.Authority
	outsiders outsiders
	proxies   []netip.Prefix
	seenAs    *url.URL
	limits    *limit.Limiter
}

// New makes a Server.
func New(c Config) (*Server, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Server{vault: c.Vault, log: c.Log, hsts: c.HSTS, metrics: newHTTPMetrics(),
		authority: c.Authority, proxies: c.Proxies, seenAs: c.SeenAs, limits: c.Limits, outsiders: outsiders{now: c.Now}}
	if err := s.metrics.register(c.Metrics); err != nil {
		return nil, err
	}
	s.public = s.routes(s.admit, s.authenticate, s.throttle)
	s.ops = s.operations(c.Metrics)
	return s, nil
}

// Public is the handler of the public listener.
func (s *Server) Public() http.Handler { return s.public }

// Operations is the handler of the operators' listener: health, readiness, metrics.
func (s *Server) Operations() http.Handler { return s.ops }

// routes are all routes of the public listener; those below /v1 are guarded.
func (s *Server) routes(guards ...echo.MiddlewareFunc) *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = s.refuse
	e.IPExtractor = echo.ExtractIPDirect() // nothing asks echo: Server.address knows the proxies
	e.Use(s.observe, s.recover, s.protect, s.fenced)

	e.RouteNotFound("/*", s.noRoute)
	e.GET("/openapi.yaml", s.contract)
	// The audit log is public: its leaves are salted hashes (C2SP tlog-tiles).
	e.GET("/audit/checkpoint", s.auditCheckpoint)
	e.GET("/audit/cosigned", s.auditCosigned)
	for _, index := range []string{"/:a", "/:a/:b", "/:a/:b/:c", "/:a/:b/:c/:d"} {
		e.GET("/audit/tile/:level"+index, s.auditTile)
	}

	e.POST("/v1/leaked-keys", s.reportLeakedKey, s.admit)
	v1 := e.Group("/v1", guards...)
	v1.RouteNotFound("/*", s.noRoute) // below /v1, strangers hear 401 whatever they ask for
	v1.GET("/types", s.listTypes)
	v1.GET("/collections", s.listCollections)
	v1.PUT("/collections/:collection", s.putCollection)
	v1.GET("/collections/:collection", s.getCollection)
	v1.DELETE("/collections/:collection", s.deleteCollection)
	v1.POST("/collections/:collection/import", s.importRecords)
	v1.POST("/collections/:collection/export", s.exportRecords)
	v1.POST("/collections/:collection/search", s.searchRecords)
	v1.GET("/collections/:collection/records/:record", s.getRecord)
	v1.PATCH("/collections/:collection/records/:record", s.patchRecord)
	v1.DELETE("/collections/:collection/records/:record", s.deleteRecord)
	v1.POST("/tokenize", s.tokenize)
	v1.POST("/detokenize", s.detokenize)
	v1.POST("/tokens/validate", s.validateTokens)
	v1.POST("/tokens/rotate", once(maxBatchBody, s.rotateTokens))
	v1.GET("/transforms", s.listTransforms)
	v1.PUT("/transforms/:transform", s.putTransform)
	v1.GET("/transforms/:transform", s.getTransform)
	v1.DELETE("/transforms/:transform", s.deleteTransform)
	v1.POST("/transforms/:transform/encode", s.encode)
	v1.POST("/transforms/:transform/decode", s.decode)
	v1.GET("/subjects/:subject", s.getSubject)
	v1.POST("/subjects/:subject/erasure", s.eraseSubject)
	v1.POST("/subjects/:subject/links", s.linkSubjects)
	v1.GET("/subjects/:subject/links", s.listLinks)
	v1.GET("/certificates/:certificate", s.getCertificate)
	v1.GET("/retention/summary", s.retentionSummary)
	v1.POST("/retention/simulations", s.simulateRetention)
	v1.POST("/retention/plans", once(maxBody, s.makePlan))
	v1.GET("/retention/plans/:plan", s.getPlan)
	v1.GET("/retention/plans/:plan/items", s.listPlanItems)
	v1.POST("/retention/plans/:plan/execute", s.executePlan)
	v1.GET("/retention/sweeps", s.listSweeps)
	v1.POST("/retention/sweeps", once(maxBody, s.startSweep))
	v1.GET("/retention/sweeps/:sweep", s.getSweep)
	v1.POST("/retention/sweeps/:sweep/confirm", s.changeSweep(s.vault.ConfirmSweep))
	v1.POST("/retention/sweeps/:sweep/stop", s.changeSweep(s.vault.StopSweep))
	v1.GET("/certificates/:certificate/completion", s.getCompletion)
	v1.GET("/holds", s.listHolds)
	v1.POST("/holds", once(maxBody, s.placeHold))
	v1.DELETE("/holds/:hold", s.releaseHold)
	v1.GET("/requests", s.listRequests)
	v1.POST("/requests", once(maxBody, s.openRequest))
	v1.GET("/requests/metrics", s.getRequestMetrics)
	v1.GET("/requests/:request", s.getRequest)
	v1.GET("/requests/:request/package", s.getPackage)
	s.requestSteps(v1)
	v1.GET("/policies", s.listPolicies)
	v1.POST("/policies/explain", s.explainPolicy)
	v1.PUT("/policies/:policy", s.putPolicy)
	v1.GET("/policies/:policy", s.getPolicy)
	v1.DELETE("/policies/:policy", s.deletePolicy)
	v1.GET("/policies/:policy/history", s.policyHistory)
	v1.GET("/purposes", s.listPurposes)
	v1.PUT("/purposes/:purpose", s.putPurpose)
	v1.GET("/purposes/:purpose", s.getPurpose)
	v1.DELETE("/purposes/:purpose", s.deletePurpose)
	v1.GET("/subjects/:subject/consents", s.listConsents)
	v1.PUT("/subjects/:subject/consents/:purpose", s.putConsent)
	v1.DELETE("/subjects/:subject/consents/:purpose", s.withdrawConsent)
	v1.PUT("/subjects/:subject/objections/:purpose", s.putObjection)
	v1.DELETE("/subjects/:subject/objections/:purpose", s.withdrawObjection)
	v1.GET("/subjects/:subject/restriction", s.getRestriction)
	v1.PUT("/subjects/:subject/restriction", s.putRestriction)
	v1.DELETE("/subjects/:subject/restriction", s.liftRestriction)
	v1.PUT("/subjects/:subject/jurisdiction", s.putJurisdiction)
	v1.DELETE("/subjects/:subject/jurisdiction", s.deleteJurisdiction)
	v1.GET("/audit/entries", s.listEntries)
	v1.GET("/audit/entries/:entry", s.getEntry)
	v1.GET("/audit/entries/:entry/proof", s.getProof)
	v1.GET("/audit/consistency", s.getConsistency)
	v1.GET("/subjects/:subject/disclosures", s.listDisclosures)
	v1.POST("/principals", s.createPrincipal)
	v1.GET("/principals", s.listPrincipals)
	v1.PATCH("/principals/:principal", s.patchPrincipal)
	v1.POST("/principals/:principal/keys", once(maxBody, s.issueKey))
	v1.GET("/principals/:principal/keys", s.listAPIKeys)
	v1.DELETE("/principals/:principal/keys/:key", s.revokeKey)
	v1.GET("/suppressions", s.listSuppressions)
	v1.POST("/suppressions", s.suppress)
	v1.DELETE("/suppressions/:suppression", s.liftSuppression)
	v1.GET("/webhooks", s.listWebhooks)
	v1.PUT("/webhooks/:webhook", s.putWebhook)
	v1.GET("/webhooks/:webhook", s.getWebhook)
	v1.DELETE("/webhooks/:webhook", s.deleteWebhook)
	v1.POST("/webhooks/:webhook/rotate-secret", once(maxBody, s.rotateWebhookSecret))
	v1.GET("/webhooks/:webhook/deliveries", s.listDeliveries)
	v1.POST("/webhooks/:webhook/deliveries/:delivery/redeliver", once(maxBody, s.redeliver))
	v1.POST("/webhooks/:webhook/deliveries/:delivery/acknowledge", s.acknowledge)
	v1.GET("/alarms", s.listAlarms)
	v1.DELETE("/alarms/:alarm", s.liftAlarm)
	v1.GET("/jobs/:job", s.getJob)
	v1.GET("/keys", s.listKeys)
	v1.POST("/keys/:key/rotate", once(maxBody, s.rotateKey))
	v1.POST("/keys/:key/versions/:version/retire", s.endKey(s.vault.RetireKey))
	v1.POST("/keys/:key/versions/:version/destroy", s.endKey(s.vault.DestroyKey))
	v1.POST("/revoked-tokens", s.revokeToken)
	return e
}

var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// noRoute answers what no route takes: 405 where the path has other methods, and else 404. Echo's own 405 would never be
// seen below /v1, where the group's catch-all comes first.
func (s *Server) noRoute(c echo.Context) error {
	other := s.public.NewContext(c.Request(), nil)
	var allowed []string
	for _, m := range methods {
		s.public.Router().Find(m, echo.GetPath(c.Request()), other)
		if matched(other) {
			allowed = append(allowed, m)
		}
	}
	if len(allowed) == 0 {
		return &vault.Error{Kind: vault.NotFound}
	}
	c.Response().Header().Set("Allow", strings.Join(allowed, ", "))
	return &vault.Error{Kind: methodNotAllowed}
}

// matched says whether a route took the request, and not a catch-all.
func matched(c echo.Context) bool { return c.Path() != "" && !strings.HasSuffix(c.Path(), "*") }

// The time-outs of both listeners. A route that streams moves its own deadlines (import.go).
const (
	requestTimeout    = 45 * time.Second // for the work itself
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 60 * time.Second
	idleTimeout       = 60 * time.Second
	maxHeaderBytes    = 64 << 10
)

// Harden sets the limits and time-outs of a listener's http.Server.
func Harden(h *http.Server) *http.Server {
	h.ReadHeaderTimeout, h.ReadTimeout = readHeaderTimeout, readTimeout
	h.WriteTimeout, h.IdleTimeout = writeTimeout, idleTimeout
	h.MaxHeaderBytes = maxHeaderBytes
	h.DisableGeneralOptionsHandler = true // what net/http answers for us has none of our headers
	return h
}

// fenced answers everything with 503 while the databases are older than the ledger.
func (s *Server) fenced(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := s.vault.Fenced(); err != nil {
			return err
		}
		return next(c)
	}
}

func (s *Server) contract(c echo.Context) error {
	return c.Blob(http.StatusOK, "application/yaml", Contract)
}

func (s *Server) operations(registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.vault.Ready(r.Context()); err != nil {
			e := vault.AsError(err)
			s.log.WarnContext(r.Context(), "not ready", "problem", e.Kind, "error", e)
			text := string(e.Kind)
			if e.Kind == vault.RestoreFence {
				text += ": " + e.Detail
			}
			http.Error(w, text, http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}
