package api

import (
	"io"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// A reader who takes nothing for so long is gone. Shorter than the lease of a download (vault.HandOut).
const packagePause = 20 * time.Second

// getPackage streams what a request for access or portability is answered with. What can't be sent whole is cut off: there is
// no end of the answer then, as HTTP has one, so nobody takes it for whole.
func (s *Server) getPackage(c echo.Context) error {
	err := s.vault.HandOut(c.Request().Context(), caller(c), c.Param("request"), func(encrypted bool) io.Writer {
		name, media := "package.zip", "application/zip"
		if encrypted {
			name, media = "package.zip.age", echo.MIMEOctetStream
		}
		h := c.Response().Header()
		h.Set(echo.HeaderContentType, media)
		h.Set(echo.HeaderContentDisposition, `attachment; filename="`+name+`"`)
		c.Response().WriteHeader(http.StatusOK)
		return &download{c.Response(), http.NewResponseController(c.Response())}
	})
	if err != nil && c.Response().Committed {
		e := httpError(err)
		s.log.WarnContext(c.Request().Context(), "a package was cut off", "request_id", requestID(c), "problem", string(e.Kind), "error", e)
		c.Set(problemKey, e.Kind)
		c.Set(cutOffKey, true)
	}
	return err
}

// download sends what it is given at once.
type download struct {
	w       io.Writer
	control *http.ResponseController
}

func (d *download) Write(p []byte) (int, error) {
	_ = d.control.SetWriteDeadline(time.Now().Add(packagePause))
	n, err := d.w.Write(p)
	if err == nil {
		err = d.control.Flush()
	}
	if err != nil {
		return n, &vault.Error{Kind: vault.Cancelled, Detail: "whoever fetched the package is gone, or took nothing any more"}
	}
	return n, nil
}
