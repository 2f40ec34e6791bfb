package api

import (
	"context"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

const (
	maxURI     = 8 << 10
	maxHeaders = 100
)

// protect refuses what no route should have to look at, and sets the headers of every answer.
func (s *Server) protect(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		h := c.Response().Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		if s.hsts {
			h.Set("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
		}
		r := c.Request()
		count := 0
		for _, values := range r.Header {
			count += len(values)
		}
		switch {
		case len(r.RequestURI) > maxURI:
			return &vault.Error{Kind: uriTooLong}
		case count > maxHeaders:
			return &vault.Error{Kind: headersTooLarge}
		case r.Host == "":
			return malformed("send a Host header")
		case !s.host(r):
			return &vault.Error{Kind: misdirected}
		case !acceptsJSON(r.Header.Values("Accept")) && !servesOthers(c.Path()):
			return &vault.Error{Kind: notAcceptable}
		}
		return next(c)
	}
}

// servesOthers says whether a route has answers that aren't JSON.
func servesOthers(path string) bool {
	return strings.HasPrefix(path, "/audit/") || strings.HasPrefix(path, "/v1/certificates/") || strings.HasSuffix(path, "/package")
}

// acceptsJSON reads Accept leniently: no header, or any range that covers what we serve.
func acceptsJSON(values []string) bool {
	if len(values) == 0 {
		return true
	}
	for _, part := range strings.Split(strings.Join(values, ","), ",") {
		media, _, err := mime.ParseMediaType(part)
		if err == nil && (media == "*/*" || media == "application/*" || strings.HasPrefix(media, "application/") &&
			(strings.HasSuffix(media, "json") || strings.HasSuffix(media, "yaml"))) {
			return true
		}
	}
	return false
}

var purposeShape = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

// authenticate makes the Caller. The tenant comes from the credential, and from nowhere else.
func (s *Server) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		from := s.address(r)
		who, err := s.identify(r)
		if err == nil {
			who.Request = requestID(c)
			who, err = s.vault.At(r.Context(), who, from)
		}
		if err != nil {
			if vault.AsError(err).Kind == vault.Unauthenticated {
				s.limits.Fail(from)
			}
			return err
		}
		c.Set(callerKey, &who) // from here on the call is somebody's, and leaves an entry
		if err := checkQuery(c, r); err != nil {
			return err
		}
		purpose := strings.Join(r.Header.Values("Privault-Purpose"), ",") // two have no purpose's shape: a proxy might read the other
		if purpose != "" && !purposeShape.MatchString(purpose) {
			return invalid("", "purpose", "Privault-Purpose is a lower-case letter, then up to 62 of a-z 0-9 _ -")
		}
		who.Purpose = purpose
		if s.limits.Budgets() {
			who.Budget = s.budget(c, limitedBy(who))
		}
		if !streams(c) {
			ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
			defer cancel()
			c.SetRequest(r.WithContext(ctx))
		}
		return next(c)
	}
}

// queryParameters are all that a route reads from a query. Values, tokens and keys never stand in a URL.
var queryParameters = map[string][]string{
	"GET /v1/alarms":                                    {"limit", "cursor"},
	"GET /v1/suppressions":                              {"limit", "cursor"},
	"GET /v1/webhooks":                                  {"limit", "cursor"},
	"GET /v1/webhooks/:webhook/deliveries":              {"state", "limit", "cursor"},
	"GET /v1/audit/consistency":                         {"from", "to"},
	"GET /v1/audit/entries":                             {"subject", "principal", "action", "purpose", "outcome", "record", "from", "to", "limit", "cursor"},
	"GET /v1/subjects/:subject/disclosures":             {"limit", "cursor"},
	"GET /v1/collections":                               {"limit", "cursor"},
	"GET /v1/collections/:collection/records/:record":   {"fields", "view"},
	"GET /v1/subjects/:subject":                         {"limit", "cursor"},
	"PATCH /v1/collections/:collection/records/:record": {"dry_run"},
	"POST /v1/subjects/:subject/erasure":                {"dry_run"},
	"PUT /v1/collections/:collection":                   {"confirm"},
	"GET /v1/retention/summary":                         {"quarter"},
	"GET /v1/retention/sweeps":                          {"limit", "cursor"},
	"GET /v1/retention/plans/:plan/items":               {"limit", "cursor"},
	"GET /v1/holds":                                     {"limit", "cursor"},
	"GET /v1/requests":                                  {"state", "due_before", "subject", "limit", "cursor"},
	"GET /v1/requests/metrics":                          {"regime", "year"},
	"GET /v1/transforms":                                {"limit", "cursor"},
	"GET /v1/principals":                                {"limit", "cursor"},
	"GET /v1/policies":                                  {"limit", "cursor"},
	"GET /v1/policies/:policy/history":                  {"limit", "cursor"},
	"GET /v1/purposes":                                  {"limit", "cursor"},
	"GET /v1/subjects/:subject/consents":                {"limit", "cursor"},
	"GET /v1/subjects/:subject/links":                   {"limit", "cursor"},
}

func checkQuery(c echo.Context, r *http.Request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	known := queryParameters[r.Method+" "+c.Path()]
	if err != nil {
		return malformed("the query does not parse")
	}
	if r.Method != http.MethodGet && known == nil {
		return malformed("this route takes no query; values, tokens and keys never stand in a URL")
	}
	for name, values := range query {
		if !slices.Contains(known, name) || len(values) != 1 || values[0] == "" {
			return malformed("the query has a parameter that does not exist, one twice, or one without a value")
		}
	}
	return nil
}

// caller is who calls; only what stands behind authenticate asks.
func caller(c echo.Context) vault.Caller { return *c.Get(callerKey).(*vault.Caller) }

// known is who calls, if anybody knows yet.
func known(c echo.Context) (who vault.Caller, ok bool) {
	if at, ok := c.Get(callerKey).(*vault.Caller); ok {
		return *at, true
	}
	return who, false
}
