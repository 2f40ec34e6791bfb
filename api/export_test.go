package api

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// Route is one route of the public listener, in the document's spelling.
type Route struct{ Method, Pattern string }

// Routes are the routes that the public listener has.
func (s *Server) Routes() []Route {
	var all []Route
	for _, r := range s.public.Routes() {
		if r.Method != echo.RouteNotFound {
			all = append(all, Route{r.Method, r.Path})
		}
	}
	return all
}

// QueryParameters are what each route reads from a query, by method and path in the document's spelling.
func QueryParameters() map[string][]string { return queryParameters }

// Problems are the problems that answers can have: the status of each slug.
func Problems() map[string]int {
	all := map[string]int{}
	for kind, k := range kinds {
		all[string(kind)] = k.status
	}
	return all
}

// PanicAt adds a route whose handler panics with a value. It takes no credential.
func (s *Server) PanicAt(path string, value any) {
	s.public.GET(path, func(echo.Context) error { panic(value) })
}

// Unguarded is the public handler without authentication and limits: everybody is who.
func (s *Server) Unguarded(who vault.Caller) http.Handler {
	return s.routes(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			c.Set(callerKey, &who)
			return next(c)
		}
	})
}
