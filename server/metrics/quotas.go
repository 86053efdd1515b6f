package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"gururmm/internal/quota"
)

var exceededDesc = describe("gururmm_quota_exceeded_total",
	"Times that one agent or one operator token did more than one may, and was slowed or refused.", "who", "what")

// quotas are counted at a scrape.
type quotas struct {
	books map[string]*quota.Book // by whose they are
}

// WatchQuotas shows, from now on, how often one does too much.
func (m *Metrics) WatchQuotas(books map[string]*quota.Book) {
	m.reg.MustRegister(&quotas{books})
}

// Describe implements prometheus.Collector.
func (*quotas) Describe(ch chan<- *prometheus.Desc) { ch <- exceededDesc }

// Collect implements prometheus.Collector.
func (q *quotas) Collect(ch chan<- prometheus.Metric) {
	for who, book := range q.books {
		for what, n := range book.Exceeded() {
			ch <- prometheus.MustNewConstMetric(exceededDesc, prometheus.CounterValue, float64(n), who, what)
		}
	}
}
