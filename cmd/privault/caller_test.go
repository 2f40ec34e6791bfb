package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// caller is somebody who calls a server with a key.
type caller struct {
	url, key string
	via      *http.Client // nil: http.DefaultClient
}

// send makes one call; body may be text, or anything that becomes JSON.
func (c caller) send(ctx context.Context, method, path string, body any) (status int, answer []byte, err error) {
	var sent io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		sent = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return 0, nil, err
		}
		sent = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, sent)
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Authorization", "Bearer "+c.key)
	if sent != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	via := c.via
	if via == nil {
		via = http.DefaultClient
	}
	got, err := via.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer got.Body.Close()
	answer, err = io.ReadAll(got.Body)
	return got.StatusCode, answer, err
}

// want makes a call that must have this status, and reads its answer into out unless that is nil.
func (c caller) want(t testing.TB, status int, method, path string, body, out any) {
	t.Helper()
	got, answer, err := c.send(t.Context(), method, path, body)
	if err != nil || got != status {
		t.Fatalf("%s %s: status %d, want %d: %s %v", method, path, got, status, answer, err)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(answer, out); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
}

// collection defines a collection of optional fields, each name with its type.
func (c caller) collection(t testing.TB, name string, types map[string]string) {
	t.Helper()
	fields := map[string]any{}
	for field, typ := range types {
		fields[field] = map[string]string{"type": typ}
	}
	c.want(t, http.StatusCreated, http.MethodPut, "/v1/collections/"+name, map[string]any{"fields": fields}, nil)
}

type batchAnswer[T any] struct{ Items []T }

// tokenize stores one value and gives its token.
func (c caller) tokenize(t testing.TB, collection, field, value string) string {
	t.Helper()
	var got batchAnswer[importedItem]
	c.want(t, http.StatusOK, http.MethodPost, "/v1/tokenize", oneItem(collection, field, value), &got)
	return got.Items[0].Tokens[field]
}

func oneItem(collection, field, value string) any {
	return map[string]any{"collection": collection, "items": []any{map[string]any{"fields": map[string]string{field: value}}}}
}

// reveal gives what tokens stand for, in plain, a thousand at a time.
func (c caller) reveal(t testing.TB, tokens []string) []string {
	t.Helper()
	type ref struct {
		Token string `json:"token"`
		View  string `json:"view"`
	}
	values := make([]string, 0, len(tokens))
	for part := range slices.Chunk(tokens, 1000) {
		body := map[string][]ref{}
		for _, token := range part {
			body["items"] = append(body["items"], ref{token, "plain"})
		}
		var got batchAnswer[struct{ Value json.RawMessage }]
		c.want(t, http.StatusOK, http.MethodPost, "/v1/detokenize", body, &got)
		for _, item := range got.Items {
			values = append(values, plainText(item.Value))
		}
	}
	return values
}

// problem makes a call that must fail, and gives what the server calls it.
func (c caller) problem(t testing.TB, status int, method, path string, body any) string {
	t.Helper()
	var p struct{ Type string }
	c.want(t, status, method, path, body, &p)
	return strings.TrimPrefix(p.Type, "urn:privault:problem:")
}

// curl is as much of curl as the greeting uses; the test binary goes by that name when a test runs its commands.
func curl(args []string) int {
	method, url, body := "", "", ""
	header := http.Header{}
	for len(args) > 0 {
		word, more := args[0], 2
		switch word {
		case "-s":
			more = 1
		case "-H":
			name, value, _ := strings.Cut(args[1], ": ")
			header.Add(name, value)
		case "-d":
			body = args[1]
		case "-X":
			method = args[1]
		default:
			url, more = word, 1
		}
		args = args[more:]
	}
	if method == "" && body != "" {
		method = http.MethodPost
	}
	err := func() error {
		r, err := http.NewRequest(method, url, strings.NewReader(body))
		if err != nil {
			return err
		}
		r.Header = header
		got, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer got.Body.Close()
		_, err = io.Copy(os.Stdout, got.Body)
		if got.StatusCode >= 300 {
			err = errors.Join(err, fmt.Errorf("status %d", got.StatusCode))
		}
		return err
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "curl:", err)
		return 1
	}
	return 0
}
