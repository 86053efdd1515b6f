// Package metrics counts, for Prometheus, what this node does.
//
// Rules that hold here:
//   - no label can grow: never an agent, a site, a command or a text of an endpoint;
//   - what the database holds is counted when it is on disk, so that a count and a
//     trace never contradict each other;
//   - a scrape that can't tell something leaves it out: absent means unknown, never zero.
//
// The alert rules and the dashboard under docs/deploy name these metrics; a test holds
// them to it.
package metrics

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"gururmm/internal/version"
	"gururmm/server/cluster"
	"gururmm/server/delivery"
	"gururmm/server/hub"
	"gururmm/server/store"
	"gururmm/wire"
)

// scrapeTimeout bounds what a scrape asks of the database.
const scrapeTimeout = 2 * time.Second

// Metrics of one node.
type Metrics struct {
	reg *prometheus.Registry

	stages    *prometheus.CounterVec
	claims    *prometheus.CounterVec
	reoffers  *prometheus.CounterVec
	ended     *prometheus.CounterVec
	acked     *prometheus.HistogramVec
	beacons   *prometheus.CounterVec
	commits   prometheus.Histogram
	shared    prometheus.Histogram
	uncommits prometheus.Counter
}

var (
	channels = []wire.Channel{wire.ChannelLink, wire.ChannelOOB}
	terminal = []wire.State{
		wire.StateCompleted, wire.StateFailed, wire.StateCancelled, wire.StateInterrupted, wire.StateExpired, wire.StateUndeliverable,
	}
	// delays are for what a network and an agent's disk take, and up to a lease and more.
	delays = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}
	// flushes are for what a disk takes.
	flushes = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5}
	// groups end at the store's bound of writes in one commit.
	groups = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256}
)

// New makes the counters. What a node holds is shown once [Metrics.Watch] was told of it.
func New() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		reg: prometheus.NewRegistry(),
		stages: counter("gururmm_command_stages_total",
			"Stages that commands have passed, as stored, by the door they passed it at.", "stage", "channel"),
		claims: counter("gururmm_command_claims_total",
			"Attempts: commands claimed for a door.", "channel"),
		reoffers: counter("gururmm_command_reoffers_total",
			"Attempts after a command's first.", "channel"),
		ended: counter("gururmm_commands_ended_total",
			"Commands that have ended, by the state they ended in.", "state"),
		acked: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gururmm_command_ack_seconds", Buckets: delays,
			Help: "From an attempt's claim to its acknowledgement, by the door it went out.",
		}, []string{"channel"}),
		beacons: counter("gururmm_beacons_total",
			"Beacons stored, by the verdict they told.", "verdict"),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "gururmm_store_commit_seconds", Help: "Time a transaction of the database took, the disk's flush included.", Buckets: flushes,
		}),
		shared: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "gururmm_store_commit_writes", Help: "Writes that shared one transaction.", Buckets: groups,
		}),
		uncommits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gururmm_store_commit_failures_total", Help: "Transactions that the database did not take.",
		}),
	}
	for _, ch := range channels { // a rate needs the zero before the first
		m.claims.WithLabelValues(string(ch))
		m.reoffers.WithLabelValues(string(ch))
		m.acked.WithLabelValues(string(ch))
	}
	for _, s := range terminal {
		m.ended.WithLabelValues(string(s))
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "gururmm_build_info", Help: "1; the label is the server's version.", ConstLabels: prometheus.Labels{"version": version.Version},
	})
	build.Set(1)
	m.reg.MustRegister(m.stages, m.claims, m.reoffers, m.ended, m.acked, m.beacons, m.commits, m.shared, m.uncommits, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Gatherer gives all metrics.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.reg }

// Acked takes in an acknowledgement; see [delivery.Options].
func (m *Metrics) Acked(door wire.Channel, took time.Duration) {
	m.acked.WithLabelValues(string(door)).Observe(max(took, 0).Seconds())
}

// Committed takes in a transaction; see [store.OpenTold].
func (m *Metrics) Committed(c store.Commit) {
	m.commits.Observe(c.Took.Seconds())
	m.shared.Observe(float64(c.Writes))
	if c.Err != nil {
		m.uncommits.Inc()
	}
}

// Watch shows, from now on, what the node holds at the moment of each scrape.
func (m *Metrics) Watch(h *hub.Hub, d *delivery.Service, st store.Store, log *slog.Logger) {
	m.reg.MustRegister(&holdings{hub: h, delivery: d, store: st, log: log})
}

// WatchCluster shows, from now on, how this node stands among the others.
func (m *Metrics) WatchCluster(state func() cluster.State) { m.reg.MustRegister(members{state}) }

// members is how a node of a cluster stands.
type members struct{ state func() cluster.State }

var (
	nodesDesc   = describe("gururmm_cluster_nodes", "Nodes that live, this one too, as of its last look.")
	leadsDesc   = describe("gururmm_cluster_leads", "1 if this node does what one alone must do; one node of all says so.")
	leaseDesc   = describe("gururmm_cluster_lease", "1 if this node's lease is held and renewed; 0: it takes no links, or soon will not.")
	lossesDesc  = describe("gururmm_cluster_lease_losses_total", "Leases that this node has lost.")
	busDesc     = describe("gururmm_cluster_bus", "1 if NATS is reached; 0: nodes find each other's changes by looking.")
	wakeupsDesc = describe("gururmm_cluster_wakeups_total", "Wake-ups of other nodes: received; of this one: dropped.", "what")
)

// Describe implements prometheus.Collector.
func (members) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodesDesc, leadsDesc, leaseDesc, lossesDesc, busDesc, wakeupsDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (w members) Collect(ch chan<- prometheus.Metric) {
	tell := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	one := func(yes bool) float64 {
		if yes {
			return 1
		}
		return 0
	}
	s := w.state()
	tell(nodesDesc, prometheus.GaugeValue, float64(len(s.Living)))
	tell(leadsDesc, prometheus.GaugeValue, one(s.Leads))
	tell(leaseDesc, prometheus.GaugeValue, one(s.Lease == nil))
	tell(lossesDesc, prometheus.CounterValue, float64(s.Losses))
	tell(busDesc, prometheus.GaugeValue, one(s.Bus == nil))
	tell(wakeupsDesc, prometheus.CounterValue, float64(s.Received), "received")
	tell(wakeupsDesc, prometheus.CounterValue, float64(s.Dropped), "dropped")
}

// holdings is what is counted at a scrape, not as it happens.
type holdings struct {
	hub      *hub.Hub
	delivery *delivery.Service
	store    store.Store
	log      *slog.Logger
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	agentsDesc   = describe("gururmm_agents", "Enrolled agents by presence, as gururmm agents shows it.", "presence")
	verdictsDesc = describe("gururmm_agent_verdicts", "Agents that are not offline, by the verdict on them.", "verdict")
	commonDesc   = describe("gururmm_fleet_verdicts", "Agents with a verdict that so many have come to at once that its cause is a common one.", "verdict")
	linksDesc    = describe("gururmm_links", "Live links by state and by what is wrong with them; nothing: an empty verdict.", "state", "verdict")
	evictedDesc  = describe("gururmm_link_evictions_total", "Links that this server ended or refused, by reason.", "reason")
	refusedDesc  = describe("gururmm_messages_refused_total", "Messages of agents that were answered with a nack, by its code.", "code")
	owedDesc     = describe("gururmm_commands_owed", "Commands held for agents and not acknowledged.")
	oldestDesc   = describe("gururmm_command_oldest_owed_seconds", "Age of the oldest of them; 0: there is none.")
	unackedDesc  = describe("gururmm_agents_unacknowledged", "Agents whose link is up and leaves a command unacknowledged beyond its lease.")
)

// Describe implements prometheus.Collector.
func (*holdings) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{agentsDesc, verdictsDesc, commonDesc, linksDesc, evictedDesc, refusedDesc, owedDesc, oldestDesc, unackedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (w *holdings) Collect(ch chan<- prometheus.Metric) {
	tell := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	c := w.hub.Census()
	if c.Agents != nil { // else the node that leads tells of the fleet
		w.agents(c, tell)
	}
	for verdict, n := range c.Verdicts {
		tell(verdictsDesc, prometheus.GaugeValue, float64(n), verdict)
	}
	all, _ := w.hub.Fleetwide()
	for _, f := range all {
		tell(commonDesc, prometheus.GaugeValue, float64(f.Agents), f.Verdict)
	}
	for l, n := range c.Links {
		tell(linksDesc, prometheus.GaugeValue, float64(n), l.State, l.Verdict)
	}
	for reason, n := range w.hub.Evictions() {
		tell(evictedDesc, prometheus.CounterValue, float64(n), reason)
	}
	for code, n := range w.hub.Refusals() {
		tell(refusedDesc, prometheus.CounterValue, float64(n), string(code))
	}
	b := w.delivery.Backlog()
	tell(unackedDesc, prometheus.GaugeValue, float64(b.Unacknowledged))
	if c.Agents == nil { // it has no routes to those that have no link here
		return
	}
	tell(owedDesc, prometheus.GaugeValue, float64(b.Owed))
	age := 0.0
	if !b.Oldest.IsZero() {
		age = max(time.Since(b.Oldest), 0).Seconds()
	}
	tell(oldestDesc, prometheus.GaugeValue, age)
}

// agents tells presences. Who was not heard of since the start is known to the database alone.
func (w *holdings) agents(c hub.Census, tell func(*prometheus.Desc, prometheus.ValueType, float64, ...string)) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	enrolled, err := w.store.CountAgents(ctx)
	if err != nil {
		w.log.Warn("agents could not be counted for a scrape", "error", err)
	}
	for _, p := range hub.Presences() {
		n := c.Agents[p]
		if p == hub.Offline {
			if err != nil {
				continue
			}
			there := 0
			for other, k := range c.Agents {
				if other != hub.Offline {
					there += k
				}
			}
			n = max(enrolled-there, 0)
		}
		tell(agentsDesc, prometheus.GaugeValue, float64(n), p)
	}
}
