package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// connection is a server, and the key that a command calls it with.
type connection struct {
	URL     string `env:"PRIVAULT_URL" help:"Address of the server; by default that of the development server in ./.privault."`
	KeyFile string `type:"existingfile" placeholder:"FILE" help:"File with the API key; by default PRIVAULT_API_KEY, or the development server's."`
	APIKey  string `kong:"-"` // never a flag: command lines are seen by others
}

// credentials finds the server and the key.
func (c *connection) credentials() error {
	c.APIKey = os.Getenv("PRIVAULT_API_KEY")
	if c.KeyFile != "" {
		b, err := os.ReadFile(c.KeyFile)
		if err != nil {
			return err
		}
		c.APIKey = string(bytes.TrimSpace(b))
	}
	if c.URL != "" && c.APIKey != "" {
		return nil
	}
	var dev devFile
	b, err := os.ReadFile(filepath.Join(".privault", "dev.json"))
	if err == nil {
		err = json.Unmarshal(b, &dev)
	}
	if err != nil {
		return &configError{[]string{"no server: give --url and PRIVAULT_API_KEY (or --key-file), or start `privault dev` in this folder"}}
	}
	if c.URL == "" {
		c.URL = dev.URL
	}
	if c.APIKey == "" && c.URL != dev.URL {
		return &configError{[]string{"no key for " + c.URL + ": give PRIVAULT_API_KEY or --key-file; the development server's key goes nowhere else"}}
	}
	if c.APIKey == "" {
		c.APIKey = dev.APIKey
	}
	return nil
}

// fieldInfo is what a command needs to know of a field.
type fieldInfo struct {
	Type  string `json:"type"`
	Token struct {
		Supplied string `json:"supplied"`
	} `json:"token"`
}

// takesTokens says whether the field's values may come with tokens.
func (f fieldInfo) takesTokens() bool {
	return f.Token.Supplied == "allowed" || f.Token.Supplied == "required"
}

// fields asks for the collection's schema.
func (c *connection) fields(ctx context.Context, collection string) (map[string]fieldInfo, error) {
	var definition struct {
		Fields map[string]fieldInfo `json:"fields"`
	}
	status, body, err := c.call(ctx, http.MethodGet, "/v1/collections/"+url.PathEscape(collection), nil, "")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("read the collection %s: %s", collection, problemText(status, body))
	}
	err = json.Unmarshal(body, &definition)
	return definition.Fields, err
}

func problemText(status int, body []byte) string {
	var p struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(body, &p) != nil || p.Title == "" {
		return fmt.Sprintf("the server answered %d", status)
	}
	return strings.TrimSuffix(fmt.Sprintf("%s (%d): %s", p.Title, status, p.Detail), ": ")
}

// callLimit is the time for a call whose answer is read whole.
const callLimit = 2 * time.Minute

// call gives status 0 if no answer came.
func (c *connection) call(ctx context.Context, method, path string, body []byte, key string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	r, err := c.request(ctx, method, path, body)
	if err != nil {
		return 0, nil, err
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, nil, err
	}
	return answer.StatusCode, b, nil
}

func (c *connection) request(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("--url is not a URL")
	}
	r.Header.Set("Authorization", "Bearer "+c.APIKey)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}
