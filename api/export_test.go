package api

import "github.com/labstack/echo/v4"

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
