package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"gururmm/internal/admission"
)

var (
	insideDesc  = describe("gururmm_door_places_taken", "Requests, links and handshakes that a door works on.", "door")
	waitingDesc = describe("gururmm_door_waiting", "Those that wait before it.", "door")
	awayDesc    = describe("gururmm_door_refused_total", "Those that it sent away, to come back later.", "door")
)

// doors are counted at a scrape.
type doors struct {
	all func() map[string]admission.Stats
}

// WatchDoors shows, from now on, how full the node's doors are.
func (m *Metrics) WatchDoors(all func() map[string]admission.Stats) {
	m.reg.MustRegister(&doors{all})
}

// Describe implements prometheus.Collector.
func (*doors) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{insideDesc, waitingDesc, awayDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (d *doors) Collect(ch chan<- prometheus.Metric) {
	for door, s := range d.all() {
		ch <- prometheus.MustNewConstMetric(insideDesc, prometheus.GaugeValue, float64(s.In), door)
		ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(s.Waiting), door)
		ch <- prometheus.MustNewConstMetric(awayDesc, prometheus.CounterValue, float64(s.Refused), door)
	}
}
