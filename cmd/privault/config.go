package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/privault/privault/kms"
	"github.com/privault/privault/vault"
)

// Config is everything that `privault serve` can be told, by flag or environment. It is checked at once: all faults are
// named, and the process ends with code 78.
type Config struct {
	Database  `embed:""`
	Keys      `embed:""`
	Audit     `embed:""`
	Ledger    `embed:""`
	Witnesses `embed:""`
	Access    `embed:""`
	Limits    `embed:""`
	Alarms    `embed:""`
	Clocks    `embed:""`
	Webhooks  `embed:""`
	Retention `embed:""`

	Listen       string `env:"PRIVAULT_LISTEN" default:"0.0.0.0:8443" help:"Address of the public listener."`
	OpsListen    string `env:"PRIVAULT_OPS_LISTEN" default:"127.0.0.1:9200" help:"Address of the operators' listener: /healthz, /readyz, /metrics."`
	TLSCert      string `name:"tls-cert" env:"PRIVAULT_TLS_CERT" placeholder:"FILE" help:"Certificate chain (PEM) of the public listener. Read again when it changes."`
	TLSKey       string `name:"tls-key" env:"PRIVAULT_TLS_KEY" placeholder:"FILE" help:"Its private key (PEM)."`
	InsecureHTTP bool   `name:"insecure-http" env:"PRIVAULT_INSECURE_HTTP" help:"Serve plain HTTP: for use behind a proxy on the same machine."`

	PackageLife time.Duration `name:"package-life" env:"PRIVAULT_PACKAGE_LIFE" default:"720h" help:"How long a person's data package can be fetched after its request was verified, or approved where it must be."`

	AllowLocalKMS       bool `name:"allow-local-kms" env:"PRIVAULT_ALLOW_LOCAL_KMS" help:"Serve with a local:// key, which lies on this machine's disk."`
	AllowUnsafeDatabase bool `name:"allow-unsafe-database" env:"PRIVAULT_ALLOW_UNSAFE_DATABASE" help:"Serve on a database with fsync off, or over the network without TLS."`
}

// Database says where the data and the keystore are.
type Database struct {
	DatabaseURL string `env:"PRIVAULT_DATABASE_URL" placeholder:"URL" help:"Postgres URL of the data database."`
	KeystoreURL string `env:"PRIVAULT_KEYSTORE_URL" placeholder:"URL" help:"Postgres URL of the keystore; by default it is in the data database."`
	MaxConns    int32  `env:"PRIVAULT_MAX_CONNS" default:"0" help:"Connections to each database, at most; 0: four for each core, and at least 16."`

	KeystoreBackups time.Duration `env:"PRIVAULT_KEYSTORE_BACKUPS" default:"840h" help:"How long the keystore's backups are kept: so long after an erasure a backup could still open what was erased, which the certificate says."`
}

func (d Database) keystore() string {
	if d.KeystoreURL == "" {
		return d.DatabaseURL
	}
	return d.KeystoreURL
}

// Keys says which key-encryption key everything hangs on.
type Keys struct {
	KMS             string        `name:"kms" env:"PRIVAULT_KMS" placeholder:"URI" help:"The key-encryption key: aws-kms://, gcp-kms://, azure-kv://, hcvault://, pkcs11: or, for development, local:// (docs/keys.md)."`
	KMSKeys         string        `name:"kms-keys" env:"PRIVAULT_KMS_KEYS" placeholder:"FILE" help:"JSON file of the KMS keys that tenants brought along, and how each is opened (docs/keys.md). No other key is called. Read again when a tenant's key isn't known yet."`
	PassphraseFile  string        `name:"kms-passphrase-file" env:"PRIVAULT_KMS_PASSPHRASE_FILE" placeholder:"FILE" help:"File with the passphrase of a local key that is sealed to one."`
	KMSTimeout      time.Duration `name:"kms-timeout" env:"PRIVAULT_KMS_TIMEOUT" default:"5s" help:"Time for one call of the KMS."`
	KMSInFlight     int           `name:"kms-in-flight" env:"PRIVAULT_KMS_IN_FLIGHT" default:"16" help:"Calls for records' keys that each KMS key gets at once (collections with kms: direct)."`
	KeyCacheTTL     time.Duration `env:"PRIVAULT_KEY_CACHE_TTL" default:"300s" help:"How long unwrapped tenant keysets are used; once more as long while the KMS is away."`
	RotateAfter     time.Duration `name:"rotate-keys-after" env:"PRIVAULT_ROTATE_KEYS_AFTER" default:"0s" help:"Age at which a server rotates root and wrap keys by itself, e.g. 8760h; 0: never."`
	RotateAfterUses int64         `name:"rotate-keys-after-uses" env:"PRIVAULT_ROTATE_KEYS_AFTER_USES" default:"4294967296" help:"How much a wrap key wraps before a server rotates it by itself; 0: however much."`

	Providers `embed:""`

	noLocal bool // keys on this machine's disk are refused, those in the file too
}

// readSettings reads a file of settings: JSON, strictly.
func readSettings(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into, json.RejectUnknownMembers(true))
}

// configError is a start that the settings forbid.
type configError struct{ faults []string }

func (e *configError) Error() string {
	return "can't start with these settings:\n  - " + strings.Join(e.faults, "\n  - ")
}

// faults are all that is wrong with the settings themselves, before anything is opened.
func (c *Config) faults() []string {
	var faults []string
	bad := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	c.Database.check(bad, c.AllowUnsafeDatabase)
	c.Keys.check(bad)
	c.Audit.check(bad)
	c.Ledger.check(bad)
	c.Witnesses.check(bad)
	c.Access.check(bad, c.Listen, c.TLSCert != "")
	c.Limits.check(bad)
	c.Alarms.check(bad)
	c.Clocks.check(bad)
	if c.PackageLife < time.Hour {
		bad("--package-life is at least 1h")
	}
	c.Webhooks.check(bad)
	c.Retention.check(bad)
	c.noLocal = !c.AllowLocalKMS
	if c.KMSKeys != "" {
		if all, err := readKMSKeys(c.KMSKeys); err == nil {
			all.check(bad, c.noLocal) // Keys.check says it if it can't be read
		}
	}
	if kms.DevelopmentOnly(c.KMS) && !c.AllowLocalKMS {
		bad("the KMS is local: its key lies on this machine's disk; use a real KMS, or say --allow-local-kms")
	}
	for name, address := range map[string]string{"--listen": c.Listen, "--ops-listen": c.OpsListen} {
		if _, _, err := net.SplitHostPort(address); err != nil {
			bad("%s is not host:port", name)
		}
	}
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		bad("--tls-cert and --tls-key go together")
	case c.TLSCert == "" && !c.InsecureHTTP:
		bad("the public listener has no TLS: give --tls-cert and --tls-key, or say --insecure-http")
	case c.TLSCert != "" && c.InsecureHTTP:
		bad("--insecure-http and --tls-cert exclude each other")
	case c.TLSCert != "":
		if _, err := loadCertificate(c.TLSCert, c.TLSKey); err != nil {
			bad("the certificate: %v", err)
		}
	}
	return faults
}

func (k Keys) check(bad func(string, ...any)) {
	if k.KMS == "" {
		bad("--kms (PRIVAULT_KMS) is missing")
	}
	if k.KMSKeys != "" {
		if _, err := readKMSKeys(k.KMSKeys); err != nil {
			bad("--kms-keys: %v", err)
		}
	}
	if k.RotateAfter != 0 && k.RotateAfter < 24*time.Hour {
		bad("--rotate-keys-after is 0 or at least 24h")
	}
	if k.RotateAfterUses != 0 && k.RotateAfterUses < 1000 {
		bad("--rotate-keys-after-uses is 0 or at least 1000")
	}
	if k.KMSInFlight < 1 || k.KMSInFlight > 1000 {
		bad("--kms-in-flight is 1 to 1000")
	}
	if k.KeyCacheTTL < time.Second || k.KMSTimeout < time.Millisecond {
		bad("--key-cache-ttl must be at least 1s and --kms-timeout at least 1ms")
	}
}

func (d Database) check(bad func(string, ...any), allowUnsafe bool) {
	if d.DatabaseURL == "" {
		bad("--database-url (PRIVAULT_DATABASE_URL) is missing")
	}
	if d.MaxConns != 0 && (d.MaxConns < 2 || d.MaxConns > 1000) {
		bad("--max-conns is 2 to 1000, or 0")
	}
	for name, text := range map[string]string{"--database-url": d.DatabaseURL, "--keystore-url": d.KeystoreURL} {
		u, err := url.Parse(text)
		if text == "" {
			continue
		}
		if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
			bad("%s is not a postgres:// URL", name)
			continue
		}
		mode := u.Query().Get("sslmode")
		if encrypted := mode == "require" || mode == "verify-ca" || mode == "verify-full"; !allowUnsafe && !encrypted && !onThisMachine(u) {
			bad("%s names another machine without an sslmode that encrypts (without one, the driver falls back to plain text): values are sealed, but the keystore's rows and audit entries would cross the network in clear; "+
				"use sslmode=verify-full, or say --allow-unsafe-database", name)
		}
	}
}

func onThisMachine(u *url.URL) bool {
	host := u.Query().Get("host") // it wins over the authority
	if host == "" {
		host = u.Hostname()
	}
	ip := net.ParseIP(host)
	return host == "" || strings.HasPrefix(host, "/") || host == "localhost" || ip != nil && ip.IsLoopback()
}

// open opens the vault that the settings describe.
func openVault(ctx context.Context, d Database, k Keys, change func(*vault.Config)) (*vault.Vault, error) {
	key, err := kms.Open(ctx, k.KMS, k.options())
	if err != nil {
		return nil, fmt.Errorf("open the key-encryption key: %w", err)
	}
	c := vault.Config{DataURL: d.DatabaseURL, KeystoreURL: d.KeystoreURL, KeystoreBackups: d.KeystoreBackups, KMS: key,
		KMSTimeout: k.KMSTimeout, KMSInFlight: k.KMSInFlight, KeyCacheTTL: k.KeyCacheTTL, RotateAfter: k.RotateAfter, RotateAfterUses: k.RotateAfterUses, MaxConns: d.MaxConns}
	if k.KMSKeys != "" {
		c.OpenKMS = k.openNamed
	}
	change(&c)
	return vault.Open(ctx, c)
}
