package main

import (
	"net"
	"net/netip"
	"sync"

	"github.com/redis/rueidis"

	"github.com/privault/privault/api"
	"github.com/privault/privault/api/limit"
)

// Limits says how often callers may call, and how many connections there may be.
type Limits struct {
	Limits      string `name:"limits" env:"PRIVAULT_LIMITS" placeholder:"FILE" help:"JSON file of rates, quotas and caps, over the defaults."`
	RedisURL    string `name:"redis-url" env:"PRIVAULT_REDIS_URL" placeholder:"URL" help:"Redis that counts for all replicas; without it each counts for itself."`
	RedisIsAway string `name:"when-redis-is-away" env:"PRIVAULT_WHEN_REDIS_IS_AWAY" enum:"open,closed" default:"open" help:"open: each replica counts for itself; closed: calls are refused."`

	MaxConnections int `env:"PRIVAULT_MAX_CONNECTIONS" default:"20000" help:"Connections to the public listener, at most."`
	MaxPerAddress  int `name:"max-connections-per-address" env:"PRIVAULT_MAX_CONNECTIONS_PER_ADDRESS" default:"1000" help:"Of them from one address, trusted proxies left out."`
}

func (l *Limits) check(bad func(string, ...any)) {
	if c, err := l.config(); err != nil {
		bad("--limits: %v", err)
	} else {
		for _, fault := range c.Faults() {
			bad("--limits: %s", fault)
		}
	}
	if l.RedisURL != "" {
		if _, err := rueidis.ParseURL(l.RedisURL); err != nil {
			bad("--redis-url is not a redis:// or rediss:// URL")
		}
	}
	if l.MaxConnections < 1 || l.MaxPerAddress < 1 {
		bad("--max-connections and --max-connections-per-address are at least 1")
	}
}

// config reads the file over the defaults.
func (l *Limits) config() (limit.Config, error) {
	c := limit.Defaults()
	if l.RedisURL != "" {
		c.Redis = &limit.Redis{URL: l.RedisURL, Closed: l.RedisIsAway == "closed"}
	}
	if l.Limits == "" {
		return c, nil
	}
	err := readSettings(l.Limits, &c)
	return c, err
}

// apply completes the API's configuration. The settings have no faults.
func (l *Limits) apply(c *api.Config) error {
	config, err := l.config()
	if err != nil {
		return err
	}
	c.Limits = limit.New(config, nil)
	return nil
}

// capped bounds the connections of a listener, all together and from one address. One too many is closed at once: it costs a
// file and nothing else.
type capped struct {
	net.Listener
	most, perAddress int
	exempt           []netip.Prefix // trusted proxies: many callers stand behind one

	mu   sync.Mutex
	open int
	from map[netip.Addr]int
}

func (l *capped) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := l.address(conn)
		if l.enter(from) {
			return &cappedConn{Conn: conn, leave: func() { l.leave(from) }}, nil
		}
		_ = conn.Close()
	}
}

// address is what a connection counts for; the zero address is not counted.
func (l *capped) address(conn net.Conn) netip.Addr {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	from := tcp.AddrPort().Addr().Unmap().WithZone("")
	for _, p := range l.exempt {
		if p.Contains(from) {
			return netip.Addr{}
		}
	}
	if from.Is6() {
		if p, err := from.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return from
}

func (l *capped) enter(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.most || from.IsValid() && l.from[from] >= l.perAddress {
		return false
	}
	if l.from == nil {
		l.from = map[netip.Addr]int{}
	}
	l.open++
	l.from[from]++
	return true
}

func (l *capped) leave(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.from[from]--; l.from[from] <= 0 {
		delete(l.from, from)
	}
}

// cappedConn leaves its listener's count when it is closed, once.
type cappedConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

func (c *cappedConn) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}
