//go:build !nocloud

package kms

import (
	"errors"
	"net/http"
	"net/url"
)

// checkEndpoint refuses what would send key material over a network in the clear.
func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("want https://HOST[:PORT]")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return errors.New("want https, or http on loopback")
	}
	return nil
}

// outage says whether an HTTP status is worth another attempt.
func outage(code int) bool {
	return code >= http.StatusInternalServerError || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout
}
