package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/privault/privault/api"
	"github.com/privault/privault/vault"
)

type serveCmd struct {
	Config `embed:""`
}

func (s *serveCmd) Run(ctx context.Context) error {
	if faults := s.faults(); len(faults) > 0 {
		return &configError{faults}
	}
	relaxGC()
	log, end := newLog(os.Stderr)
	defer end()
	metrics := newMetrics()
	var unread error
	v, err := openVault(ctx, s.Database, s.Keys, func(c *vault.Config) {
		c.Log, c.Metrics, c.PackageLife = log, metrics, s.PackageLife
		var rules, clocks, reach error
		c.Alarms, rules = s.rules()
		c.Clocks, clocks = s.clocks()
		c.Courier, reach = s.courier()
		unread = errors.Join(rules, clocks, reach, s.Audit.into(c))
		s.Ledger.into(c)
		s.Retention.apply(c)
	})
	if err := errors.Join(err, unread); err != nil {
		return err
	}
	defer v.Close()
	faults, err := v.Faults(ctx)
	if err != nil {
		return err
	}
	if unfit := s.unforgiven(faults); len(unfit) > 0 {
		return &configError{unfit}
	}
	proxies, err := s.proxies()
	if err != nil {
		return err
	}
	public := listener{address: s.Listen, caps: &capped{most: s.MaxConnections, perAddress: s.MaxPerAddress, exempt: proxies}}
	if s.TLSCert != "" {
		public.tls = withClientCerts(tlsConfig(s.TLSCert, s.TLSKey, log), s.ClientCA, log)
	}
	running := &service{vault: v, log: log, metrics: metrics, public: public, ops: listener{address: s.OpsListen}, settings: s.apply}
	if running.witnesses, err = s.ask(s.Audit); err != nil {
		return err
	}
	return running.run(ctx, nil)
}

// apply completes the API's configuration.
func (s *serveCmd) apply(c *api.Config) error {
	if err := s.Limits.apply(c); err != nil {
		return err
	}
	return s.Access.apply(c)
}

// unforgiven are the faults of the database that no operator has allowed by name. Roles never are.
func (s *serveCmd) unforgiven(faults vault.Faults) []string {
	if s.AllowUnsafeDatabase {
		return faults.Roles
	}
	return append(faults.Roles, faults.Durability...)
}

func newMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// listener is where a handler is served.
type listener struct {
	address string
	tls     *tls.Config // nil: plain HTTP
	caps    *capped     // nil: any number of connections
}

// service is a running server: both listeners and the jobs beside them.
type service struct {
	vault       *vault.Vault
	log         *slog.Logger
	metrics     *prometheus.Registry
	public, ops listener
	settings    func(*api.Config) error // nil: API keys only, addresses of connections, no limits
	witnesses   *askers                 // nil: nobody else signs the audit log
}

// drain is how long a stopping server waits for the requests that it has accepted.
const drain = 20 * time.Second

// run serves until ctx ends, then finishes what it accepted. ready is called once both listeners are open.
func (s *service) run(ctx context.Context, ready func(public, ops net.Addr) error) error {
	config := api.Config{Vault: s.vault, Log: s.log, Metrics: s.metrics, HSTS: s.public.tls != nil}
	if s.settings != nil {
		if err := s.settings(&config); err != nil {
			return err
		}
	}
	defer config.Limits.Close()
	server, err := api.New(config)
	if err != nil {
		return err
	}
	public, err := s.public.open(ctx)
	if err != nil {
		return err
	}
	ops, err := s.ops.open(ctx)
	if err != nil {
		return errors.Join(err, public.Close())
	}
	// http.Server's own complaints quote what a peer sent; its handlers log for themselves.
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	servers := map[*http.Server]net.Listener{
		//nolint:gosec // Harden sets the time-outs
		api.Harden(&http.Server{Handler: server.Public(), ErrorLog: quiet}): public,
		//nolint:gosec // likewise
		api.Harden(&http.Server{Handler: server.Operations(), ErrorLog: quiet}): ops,
	}
	g, ctx := errgroup.WithContext(ctx)
	for h, l := range servers {
		g.Go(func() error {
			if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
			defer cancel()
			return h.Shutdown(late)
		})
	}
	g.Go(func() error { return s.work(ctx) })
	g.Go(func() error { return s.sequence(ctx) })
	g.Go(func() error { return s.askWitnesses(ctx) })
	g.Go(func() error { return every(ctx, time.Minute, s.noteUses) })
	g.Go(func() error { return every(ctx, watchEvery, s.watch) })
	g.Go(func() error { return s.watchLedger(ctx) })
	g.Go(func() error { return every(ctx, time.Minute, s.noteDue) })
	s.log.InfoContext(ctx, "serving", "listen", public.Addr().String(), "ops_listen", ops.Addr().String(), "tls", s.public.tls != nil)
	if ready != nil {
		g.Go(func() error { return ready(public.Addr(), ops.Addr()) })
	}
	err = g.Wait()
	s.log.InfoContext(ctx, "stopped")
	return err
}

func (l listener) open(ctx context.Context) (net.Listener, error) {
	opened, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.address, err)
	}
	if l.caps != nil {
		l.caps.Listener = opened
		opened = l.caps
	}
	if l.tls != nil {
		return tls.NewListener(opened, l.tls), nil
	}
	return opened, nil
}

// work works jobs until ctx ends, and then lets their batches finish.
func (s *service) work(ctx context.Context) error {
	if err := s.behindFence(ctx); err != nil {
		return nil // it stops before there was anything to work on
	}
	if err := s.vault.StartJobs(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	return s.vault.StopJobs(late)
}

// noteUses writes down when API keys were last used, how much the tenants' keys have wrapped, and which calls were refused.
func (s *service) noteUses(ctx context.Context) {
	if err := s.vault.NoteLastUsed(ctx); err != nil {
		s.log.WarnContext(ctx, "when keys were last used is not written down", "error", err)
	}
	if err := s.vault.NoteUses(ctx); err != nil {
		s.log.WarnContext(ctx, "how much keys have wrapped is not written down", "error", err)
	}
	if err := s.vault.NoteReveals(ctx); err != nil {
		s.log.WarnContext(ctx, "when records were last revealed is not written down", "error", err)
	}
	if err := s.vault.NoteRefusals(ctx); err != nil {
		s.log.ErrorContext(ctx, "the entries of refused calls are not written yet", "error", err)
	}
}

// noteDue brings the metrics of what is due by retention up to date.
func (s *service) noteDue(ctx context.Context) {
	if err := s.vault.NoteDue(ctx); err != nil {
		s.log.WarnContext(ctx, "what is due is not counted", "error", err)
	}
}

// every does something now and then, and once more when ctx has ended: that time has the drain.
func every(ctx context.Context, period time.Duration, do func(ctx context.Context)) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-ctx.Done():
			last = true
		case <-tick.C:
		}
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		do(late)
		cancel()
	}
	return nil
}

// certificates reads a certificate again when its files change, at most once in a while.
type certificates struct {
	cert, key string
	log       *slog.Logger

	mu      sync.Mutex
	loaded  *tls.Certificate
	stamp   string
	checked time.Time
}

const certificateCheck = time.Second

func tlsConfig(cert, key string, log *slog.Logger) *tls.Config {
	c := &certificates{cert: cert, key: key, log: log}
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: c.get}
}

// get gives the newest certificate that loads; a broken new one leaves the old one in force.
func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.loaded != nil && time.Since(c.checked) < certificateCheck {
		return c.loaded, nil
	}
	c.checked = time.Now()
	stamp := fileStamp(c.cert) + fileStamp(c.key)
	if c.loaded != nil && stamp == c.stamp {
		return c.loaded, nil
	}
	loaded, err := loadCertificate(c.cert, c.key)
	if err == nil {
		c.loaded, c.stamp = loaded, stamp
		c.log.Info("certificate loaded", "not_after", loaded.Leaf.NotAfter)
		return loaded, nil
	}
	if c.loaded != nil {
		c.log.Error("the new certificate does not load; the old one stays in force", "error", err)
		return c.loaded, nil
	}
	return nil, err
}

func loadCertificate(cert, key string) (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(cert, key)
	return &c, err
}

func fileStamp(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size())
}
