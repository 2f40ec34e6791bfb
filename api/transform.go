package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/privault/privault/vault"
)

// transform is a transform on the wire.
type transform struct {
	Name string `json:"name"`
	vault.TransformDefinition
	KeyVersion int32  `json:"key_version,omitempty"` // none of a mask
	Created    string `json:"created_at"`
}

func wireTransform(t *vault.Transform) transform {
	return transform{t.Name, t.Definition, t.KeyVersion, formatTime(t.Created)}
}

func (s *Server) putTransform(c echo.Context) error {
	var in vault.TransformDefinition
	if _, err := bind(c, maxBody, &in); err != nil {
		return err
	}
	t, created, err := s.vault.PutTransform(c.Request().Context(), caller(c), c.Param("transform"), in)
	if err != nil {
		return err
	}
	return sendPut(c, created, wireTransform(t))
}

func (s *Server) getTransform(c echo.Context) error {
	t, err := s.vault.GetTransform(c.Request().Context(), caller(c), c.Param("transform"))
	if err != nil {
		return err
	}
	return sendJSON(c, http.StatusOK, wireTransform(t))
}

func (s *Server) listTransforms(c echo.Context) error {
	limit, err := pageLimit(c)
	if err != nil {
		return err
	}
	page, next, err := s.vault.ListTransforms(c.Request().Context(), caller(c), c.QueryParam("cursor"), limit)
	if err != nil {
		return err
	}
	return sendPage(c, page, next, wireTransform)
}

func (s *Server) deleteTransform(c echo.Context) error {
	if err := s.vault.DeleteTransform(c.Request().Context(), caller(c), c.Param("transform")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

type transformRequest struct {
	Items []transformItem `json:"items"`
}

type transformItem struct {
	Value      *string `json:"value"`
	KeyVersion *int32  `json:"key_version"`
}

func (s *Server) encode(c echo.Context) error { return s.transform(c, s.vault.Encode) }

func (s *Server) decode(c echo.Context) error { return s.transform(c, s.vault.Decode) }

func (s *Server) transform(c echo.Context, do func(context.Context, vault.Caller, string, []vault.TransformItem) ([]vault.Transformed, error)) error {
	var in transformRequest
	if _, err := bind(c, maxBatchBody, &in); err != nil {
		return err
	}
	items := make([]vault.TransformItem, len(in.Items))
	for i, item := range in.Items {
		at := "/items/" + strconv.Itoa(i)
		if item.Value == nil {
			return invalid(at+"/value", "required", "an item has a value")
		}
		items[i].Value = vault.NewSecret([]byte(*item.Value))
		if item.KeyVersion != nil {
			if items[i].KeyVersion = *item.KeyVersion; *item.KeyVersion < 1 {
				return invalid(at+"/key_version", "key-version", "key versions count from 1")
			}
		}
	}
	done, err := do(c.Request().Context(), caller(c), c.Param("transform"), items)
	if err != nil {
		return err
	}
	return sendBatch(c, len(done), 80, func(a *answer, i int) int {
		if done[i].Err != nil {
			return a.problem(done[i].Err, requestID(c))
		}
		a.number("status", http.StatusOK)
		a.text("value", string(done[i].Value.Reveal()))
		if done[i].KeyVersion != 0 { // a mask has none
			a.number("key_version", int(done[i].KeyVersion))
		}
		return http.StatusOK
	})
}
