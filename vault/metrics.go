package vault

import (
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/privault/privault/kms"
)

// metrics are the vault's own. Labels are from closed sets: never a tenant, an id or anything of a caller's.
type metrics struct {
	commitSize, fetchSize      prometheus.Histogram
	keyringHits, keyringMisses prometheus.Counter
	kmsCalls                   *prometheus.CounterVec
	items                      *prometheus.CounterVec
	auditSize, auditLag        prometheus.Gauge
	auditHalted                prometheus.Gauge
	alarms                     *prometheus.CounterVec
	unauthenticated            prometheus.Counter
	oldestDue, deadRows        prometheus.Gauge
	due                        *prometheus.GaugeVec
	overdue                    overdueCount
	fenced                     prometheus.Gauge
}

func newMetrics() *metrics {
	sizes := prometheus.ExponentialBuckets(1, 2, 12)
	return &metrics{
		commitSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "privault_commit_group_size", Help: "Changes that one group commit carried.", Buckets: sizes}),
		fetchSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "privault_fetch_group_size", Help: "Reads that one grouped fetch carried.", Buckets: sizes}),
		keyringHits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "privault_keyring_hits_total", Help: "Tenant keysets taken from the cache."}),
		keyringMisses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "privault_keyring_misses_total", Help: "Tenant keysets that had to be fetched and unwrapped."}),
		kmsCalls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "privault_kms_calls_total", Help: "Calls of the key management system."}, []string{"operation", "result"}),
		items: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "privault_items_total", Help: "Items of tokenize and detokenize batches."}, []string{"action", "result"}),
		alarms: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "privault_alarms_total", Help: "Alarms on sudden behaviour, by kind and response."}, []string{"kind", "response"}),
		auditSize: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "privault_audit_log_size", Help: "Entries in the audit log's tree, when this replica last sequenced."}),
		auditLag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "privault_audit_lag_seconds", Help: "How long the oldest entry of the last batch had waited for its place in the log."}),
		auditHalted: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "privault_audit_halted", Help: "1 once the audit log has stopped because the database is not the one it was."}),
		fenced: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "privault_restore_fence", Help: "1 while nothing is served because a database is older than the ledger."}),
		oldestDue: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "privault_retention_oldest_overdue_seconds", Help: "Since when the oldest record is due by a rule of retention, or expired, that no hold keeps."}),
		due: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "privault_retention_due_records", Help: "Records that are due and still there, by whether a hold keeps them; counted up to 10,000 of each collection."}, []string{"state"}),
		deadRows: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "privault_database_dead_rows", Help: "Rows of records, indexes and aliases that wait for a VACUUM, as Postgres estimates."}),
		unauthenticated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "privault_unauthenticated_total", Help: "Calls without a credential that is good."}),
	}
}

func (m *metrics) register(r prometheus.Registerer, s store, now func() time.Time) error {
	collectors := []prometheus.Collector{m.commitSize, m.fetchSize, m.keyringHits, m.keyringMisses, m.kmsCalls, m.items,
		m.auditSize, m.auditLag, m.auditHalted, m.fenced, m.unauthenticated, m.alarms, m.oldestDue, m.due, m.deadRows, m.overdue.gauge(now)}
	for name, db := range map[string]database{"data": s.data, "keystore": s.keys} {
		collectors = append(collectors, poolGauge(name, "total", "Connections.", db.pool, (*pgxpool.Stat).TotalConns),
			poolGauge(name, "acquired", "Connections in use.", db.pool, (*pgxpool.Stat).AcquiredConns))
	}
	for _, c := range collectors {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func poolGauge(database, name, help string, pool *pgxpool.Pool, read func(*pgxpool.Stat) int32) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "privault_database_connections_" + name, Help: help, ConstLabels: prometheus.Labels{"database": database},
	}, func() float64 { return float64(read(pool.Stat())) })
}

func (m *metrics) kmsCall(operation string, err error) {
	result := "ok"
	switch {
	case errors.Is(err, kms.ErrUnavailable):
		result = "unavailable"
	case errors.Is(err, kms.ErrDenied):
		result = "denied"
	case err != nil:
		result = "failed"
	}
	m.kmsCalls.WithLabelValues(operation, result).Inc()
}

func (m *metrics) batch(action string, items, refused int) {
	m.items.WithLabelValues(action, "ok").Add(float64(items - refused))
	m.items.WithLabelValues(action, "refused").Add(float64(refused))
}
