package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/privault/privault/api/egress"
)

const fetchBytes = 256 << 10

// fetch gets a small JSON document.
func fetch(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, egress.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	res, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, fetchBytes+1))
	if err == nil && len(body) > fetchBytes {
		err = errors.New("more than 256 KiB")
	}
	return body, err
}
