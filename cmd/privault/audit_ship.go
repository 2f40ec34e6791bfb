package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/privault/privault/vault"
)

// shipTimeout is for the delivery of one batch.
const shipTimeout = 30 * time.Second

// summary is what receivers file an entry by.
type summary struct {
	ID, At, Action, Outcome string
}

func summarize(e vault.ShippedEntry) (s summary, err error) {
	err = json.Unmarshal(e.Entry, &s)
	return s, err
}

// tls is the configuration for a receiver.
func (a *auditExportCmd) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.CA != "" {
		var err error
		if c.RootCAs, err = loadPool(a.CA); errors.Is(err, errNoCertificate) {
			return nil, &configError{[]string{"--ca has no certificate"}}
		}
		if err != nil {
			return nil, err
		}
	}
	if a.Cert != "" || a.CertKey != "" {
		cert, err := tls.LoadX509KeyPair(a.Cert, a.CertKey)
		if err != nil {
			return nil, &configError{[]string{"--cert and --cert-key: " + err.Error()}}
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

// syslog sends RFC 5424 messages. The protocol has no receipt, and what TCP took may still be lost on the way. So each batch has
// a connection of its own: it counts as delivered when the receiver has read to our end of it and closed its own.
func (a *auditExportCmd) syslog() (deliver, error) {
	u, err := url.Parse(a.To)
	if err != nil || u.Host == "" || u.Port() == "" {
		return nil, &configError{[]string{"--to: a syslog address is syslog+tcp://HOST:PORT or syslog+tls://HOST:PORT"}}
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	dial := dialer.DialContext
	if u.Scheme == "syslog+tls" {
		config, err := a.tls()
		if err != nil {
			return nil, err
		}
		dial = (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext
	}
	host, err := os.Hostname()
	if err != nil {
		host = "-"
	}
	return func(ctx context.Context, entries []vault.ShippedEntry) error {
		var b []byte
		for _, e := range entries {
			message, err := syslogMessage(e, host, a.MaxMessage)
			if err != nil {
				return fmt.Errorf("%w: %w", errRefused, err)
			}
			// Octet counting, RFC 6587 section 3.4.1 and RFC 5425 section 4.3.
			b = append(append(strconv.AppendInt(b, int64(len(message)), 10), ' '), message...)
		}
		ctx, cancel := context.WithTimeout(ctx, shipTimeout)
		defer cancel()
		c, err := dial(ctx, "tcp", u.Host)
		if err != nil {
			return err
		}
		defer c.Close()
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		defer stop()
		return handOver(c, b)
	}, nil
}

// handOver writes everything, says that it was everything, and waits for the other side to close.
func handOver(c net.Conn, b []byte) error {
	if _, err := c.Write(b); err != nil {
		return err
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil { // TCP and TLS both have it
		return err
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		return fmt.Errorf("the receiver didn't read to the end: %w", err)
	}
	return nil
}

const (
	syslogAudit = 13 * 8 // the facility "log audit"
	// Severities.
	syslogWarning, syslogNotice, syslogInfo = 4, 5, 6
)

// syslogMessage is an entry as RFC 5424 has it: the line of JSON that the other receivers get is the message.
func syslogMessage(e vault.ShippedEntry, host string, longest int) ([]byte, error) {
	s, err := summarize(e)
	if err != nil {
		return nil, err
	}
	severity := map[string]int{"denied": syslogWarning, "failed": syslogNotice}[s.Outcome]
	if severity == 0 {
		severity = syslogInfo
	}
	head := fmt.Appendf(nil, "<%d>1 %s %s privault - %.32s - ", syslogAudit+severity, s.At, host, s.Action)
	line := e.Line()
	if len(head)+len(line) > longest {
		if e, err = e.Brief(); err != nil {
			return nil, err
		}
		line = e.Line()
	}
	return append(head, line...), nil
}

// otlp sends the entries as log records to an OTLP receiver, in the protocol's JSON encoding. A receiver that answers 200 has
// them.
func (a *auditExportCmd) otlp() (deliver, error) {
	if _, err := url.Parse(a.To); err != nil {
		return nil, &configError{[]string{"--to is not a URL"}}
	}
	config, err := a.tls()
	if err != nil {
		return nil, err
	}
	headers, err := a.headers()
	if err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: shipTimeout, Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context, entries []vault.ShippedEntry) error {
		body, err := otlpBody(entries)
		if err != nil {
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.To, bytes.NewReader(body))
		if err != nil {
			return err
		}
		r.Header = headers.Clone()
		r.Header.Set("Content-Type", "application/json")
		res, err := client.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		return otlpTaken(res)
	}, nil
}

// headers are those of the header file.
func (a *auditExportCmd) headers() (http.Header, error) {
	h := http.Header{}
	if a.HeaderFile == "" {
		return h, nil
	}
	text, err := os.ReadFile(a.HeaderFile)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, found := strings.Cut(line, ":")
		switch {
		case strings.TrimSpace(line) == "":
			continue
		case !found:
			return nil, &configError{[]string{"--header-file has lines Name: value"}}
		}
		h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return h, nil
}

// otlpTaken says whether an answer means that the receiver has the entries. What may pass is worth another try (OTLP 1,
// "Failures"); of a partial success nothing may be sent again, so it ends the export.
func otlpTaken(res *http.Response) error {
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("the receiver answers %s", res.Status)
	default:
		return fmt.Errorf("%w: it answers %s", errRefused, res.Status)
	}
	var answer struct {
		PartialSuccess struct {
			Rejected json.RawMessage `json:"rejectedLogRecords"` // a number, or its text
		} `json:"partialSuccess"`
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err
	}
	if len(body) > 0 && strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(body, &answer); err != nil {
			return errors.New("the receiver's answer is not OTLP's")
		}
	}
	if n := strings.Trim(string(answer.PartialSuccess.Rejected), `"`); n != "" && n != "0" && n != "null" {
		return fmt.Errorf("%w: %s of them", errRefused, n)
	}
	return nil
}

// The parts of an OTLP request that are sent, in its JSON encoding (opentelemetry.proto.collector.logs.v1).
type (
	otlpValue struct {
		String *string `json:"stringValue,omitempty"`
		Int    *string `json:"intValue,omitempty"`
	}
	otlpAttribute struct {
		Key   string    `json:"key"`
		Value otlpValue `json:"value"`
	}
	otlpRecord struct {
		Time         string          `json:"timeUnixNano"`
		Observed     string          `json:"observedTimeUnixNano"`
		Severity     int             `json:"severityNumber"`
		SeverityText string          `json:"severityText"`
		Body         otlpValue       `json:"body"`
		Attributes   []otlpAttribute `json:"attributes"`
	}
	otlpScope struct {
		Scope struct {
			Name string `json:"name"`
		} `json:"scope"`
		Records []otlpRecord `json:"logRecords"`
	}
	otlpResource struct {
		Resource struct {
			Attributes []otlpAttribute `json:"attributes"`
		} `json:"resource"`
		Scopes []otlpScope `json:"scopeLogs"`
	}
	otlpRequest struct {
		Resources []otlpResource `json:"resourceLogs"`
	}
)

func otlpText(key, value string) otlpAttribute { return otlpAttribute{key, otlpValue{String: &value}} }

func otlpBody(entries []vault.ShippedEntry) ([]byte, error) {
	scope := otlpScope{Records: make([]otlpRecord, 0, len(entries))}
	scope.Scope.Name = "privault/audit"
	for _, e := range entries {
		s, err := summarize(e)
		if err != nil {
			return nil, err
		}
		at, err := time.Parse(time.RFC3339Nano, s.At)
		if err != nil {
			return nil, errors.New("an audit entry has no time")
		}
		index, body := strconv.FormatInt(e.Index, 10), string(e.Entry)
		r := otlpRecord{Time: strconv.FormatInt(at.UnixNano(), 10), Observed: strconv.FormatInt(at.UnixNano(), 10), Severity: 9, SeverityText: "INFO",
			Body: otlpValue{String: &body}, Attributes: []otlpAttribute{
				{"privault.audit.index", otlpValue{Int: &index}},
				otlpText("privault.audit.salt", e.Salt), otlpText("privault.tenant", e.Tenant), otlpText("privault.audit.entry", s.ID),
				otlpText("privault.audit.action", s.Action), otlpText("privault.audit.outcome", s.Outcome)}}
		if s.Outcome != "ok" {
			r.Severity, r.SeverityText = 13, "WARN"
		}
		scope.Records = append(scope.Records, r)
	}
	resource := otlpResource{Scopes: []otlpScope{scope}}
	resource.Resource.Attributes = []otlpAttribute{otlpText("service.name", "privault")}
	return json.Marshal(otlpRequest{[]otlpResource{resource}})
}
