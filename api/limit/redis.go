package limit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// shared counts in Redis, for all replicas, by Redis's own clock. All counters of a call belong to one tenant and are
// charged by one script, so that a call is charged everywhere or nowhere.
type shared struct {
	config Redis
	now    func() time.Time

	mu      sync.Mutex
	client  rueidis.Client
	retried time.Time // when Redis was last found to be away
}

// ErrAway says that Redis can't be asked.
var ErrAway = errors.New("the counters in Redis can't be reached")

const (
	redisTimeout = 250 * time.Millisecond
	redisPause   = time.Second // that Redis is left alone after it was away
)

// charge is memory.take in Redis. KEYS are the buckets, then the quotas; ARGV: cost, patience in µs, the number of buckets,
// then interval in µs and burst of each bucket, then sum and seconds to live of each quota. It answers what happened
// (0 charged, 1 too fast, 2 quota), which limit it was, and the time to wait in µs.
var charge = rueidis.NewLuaScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local cost, patience, n = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local tats, wait, which = {}, 0, 0
for i = 1, n do
  local interval, burst = tonumber(ARGV[2 + 2 * i]), tonumber(ARGV[3 + 2 * i])
  tats[i] = math.max(tonumber(redis.call('GET', KEYS[i]) or 0), now) + math.min(cost, burst) * interval
  local w = tats[i] - burst * interval - now
  if w > wait then wait, which = w, i end
end
if wait > patience then return {1, which, math.ceil(wait)} end
for i = n + 1, #KEYS do
  local used = tonumber(redis.call('GET', KEYS[i]) or 0)
  if used + cost > tonumber(ARGV[2 + 2 * i]) then return {2, i - n, 0} end
end
for i = 1, n do
  redis.call('SET', KEYS[i], string.format('%.0f', tats[i]), 'PX', math.ceil((tats[i] - now) / 1000) + 1000)
end
for i = n + 1, #KEYS do
  redis.call('INCRBY', KEYS[i], cost)
  redis.call('EXPIRE', KEYS[i], ARGV[3 + 2 * i])
end
return {0, which, math.ceil(wait)}`)

// name is memory.distinct in Redis. KEYS: the set; ARGV: how many it may hold, seconds to live, then the values.
var name = rueidis.NewLuaScript(`
local added = {}
for i = 3, #ARGV do
  if redis.call('SADD', KEYS[1], ARGV[i]) == 1 then added[#added + 1] = ARGV[i] end
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
if redis.call('SCARD', KEYS[1]) <= tonumber(ARGV[1]) then return 1 end
for _, v in ipairs(added) do redis.call('SREM', KEYS[1], v) end
return 0`)

// text names a counter in Redis. The braces keep all counters of a tenant on one node of a cluster.
func (k key) text() string {
	t := "privault:{" + hex.EncodeToString(k.tenant[:]) + "}:" + strconv.Itoa(int(k.kind)) + ":" + hex.EncodeToString(k.id[:])
	if k.period != 0 {
		t += ":" + strconv.FormatInt(k.period, 10)
	}
	if k.scope != "" {
		t += ":" + k.scope
	}
	return t
}

func (s *shared) take(ctx context.Context, buckets []bucket, quotas []quota, cost int, patience time.Duration) (verdict, error) {
	names := make([]string, 0, len(buckets)+len(quotas))
	args := make([]string, 3, 3+2*cap(names))
	args[0], args[1], args[2] = strconv.Itoa(cost), strconv.FormatInt(patience.Microseconds(), 10), strconv.Itoa(len(buckets))
	for _, b := range buckets {
		names = append(names, b.key.text())
		args = append(args, strconv.FormatFloat(b.rate.interval()/1e3, 'f', 3, 64), strconv.Itoa(b.rate.Burst))
	}
	now := s.now()
	for _, q := range quotas {
		names = append(names, q.key.text())
		args = append(args, strconv.FormatInt(q.most, 10), strconv.Itoa(int(q.ends.Sub(now).Seconds())+60))
	}
	got, err := s.ask(ctx, charge, names, args)
	if err != nil {
		return verdict{}, err
	}
	answer, err := got.AsIntSlice()
	if err != nil || len(answer) != 3 {
		return verdict{}, errors.Join(ErrAway, err)
	}
	wait := time.Duration(answer[2]) * time.Microsecond
	switch answer[0] {
	case 0:
		return verdict{delay: wait}, nil
	case 1:
		b := buckets[answer[1]-1]
		return verdict{refused: &Refusal{Policy: b.policy, Rate: b.rate, After: wait}}, nil
	}
	q := quotas[answer[1]-1]
	return verdict{refused: &Refusal{Policy: q.policy, Quota: true, After: q.ends.Sub(now)}}, nil
}

func (s *shared) distinct(ctx context.Context, k key, digests [][8]byte, most int64) (bool, error) {
	left := time.Unix(k.period, 0).AddDate(0, 0, 1).Sub(s.now())
	args := make([]string, 2, 2+len(digests))
	args[0], args[1] = strconv.FormatInt(most, 10), strconv.Itoa(int(left.Seconds())+60)
	for _, d := range digests {
		args = append(args, string(d[:]))
	}
	got, err := s.ask(ctx, name, []string{k.text()}, args)
	if err != nil {
		return false, err
	}
	fits, err := got.AsInt64()
	return fits == 1, err
}

// First says whether a digest is new to all replicas, and keeps it: the memory of DPoP proofs.
func (s *shared) first(ctx context.Context, digest [32]byte, life time.Duration) (bool, error) {
	client, err := s.connected()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	err = client.Do(ctx, client.B().Set().Key("privault:proof:"+hex.EncodeToString(digest[:])).Value("").Nx().Px(life).Build()).Error()
	if rueidis.IsRedisNil(err) {
		return false, nil
	}
	if err != nil {
		s.away(err)
		return false, fmt.Errorf("%w: %w", ErrAway, err)
	}
	return true, nil
}

// First remembers a digest for all replicas, where counters are shared, and says whether it is new. It fails while Redis is
// away, whatever the limits do then: a proof that may be a replay is none.
func (l *Limiter) First(ctx context.Context, digest [32]byte, life time.Duration) (bool, error) {
	return l.shared.first(ctx, digest, life)
}

// Shared says whether counters are in Redis.
func (l *Limiter) Shared() bool { return l != nil && l.shared != nil }

func (s *shared) ask(ctx context.Context, script *rueidis.Lua, keys, args []string) (rueidis.RedisResult, error) {
	client, err := s.connected()
	if err != nil {
		return rueidis.RedisResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	got := script.Exec(ctx, client, keys, args)
	if err := got.Error(); err != nil {
		s.away(err)
		return got, fmt.Errorf("%w: %w", ErrAway, err)
	}
	return got, nil
}

func (s *shared) timeout() time.Duration {
	if s.config.Timeout > 0 {
		return s.config.Timeout
	}
	return redisTimeout
}

// connected gives the client, and connects if Redis hasn't been tried for a while: a replica starts without it.
func (s *shared) connected() (rueidis.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.retried.IsZero() && time.Since(s.retried) < redisPause {
		return nil, ErrAway
	}
	if s.client != nil {
		return s.client, nil
	}
	options, err := rueidis.ParseURL(s.config.URL)
	if err != nil {
		return nil, ErrAway // its text may quote the URL, password included
	}
	options.DisableCache, options.DisableRetry = true, true
	options.ConnWriteTimeout, options.Dialer.Timeout = s.timeout(), s.timeout()
	options.ClientName = "privault"
	client, err := rueidis.NewClient(options)
	if err != nil {
		s.retried = time.Now()
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	s.client, s.retried = client, time.Time{}
	return client, nil
}

// away leaves Redis alone for a while, unless it was the caller who went.
func (s *shared) away(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retried = time.Now()
}

func (s *shared) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		s.client.Close()
	}
}
