package worker

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	psnet "github.com/shirou/gopsutil/v4/net"
	"github.com/shirou/gopsutil/v4/process"

	"gururmm/internal/diskfree"
	"gururmm/internal/fault"
	"gururmm/session"
	"gururmm/wire"
)

// measure sends the vital signs on a verified link.
func (w *worker) measure(ctx context.Context, by *token) {
	read := w.cfg.Metrics
	if read == nil { // its own for each goroutine: it remembers the last reading
		read = machine(w.cfg.StateDir.Path(""))
	}
	last := time.Now().Add(-rand.N(ms(w.policy().MetricsMS)))
	for {
		// Looked at again at least each minute: the policy may have changed.
		wait := min(time.Until(last.Add(ms(w.policy().MetricsMS))), time.Minute)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-by.C:
			timer.Stop()
			fault.Stall(faultMetrics)
			fault.Stall(faultDeadlock)
			by.drained()
			continue
		case <-timer.C:
		}
		w.cfg.Gate()
		if time.Since(last) < ms(w.policy().MetricsMS) {
			continue
		}
		last = time.Now()
		s := w.trusted()
		if s == nil {
			continue
		}
		m := read()
		if by.revoked.Load() {
			return
		}
		m.At = w.clock.Now()
		if env, err := wire.Seal(wire.TypeMetrics, m); err == nil {
			// Refused only when the link ends or is stuck: the next ones are newer.
			_ = s.Conn().Send(env, session.SendOptions{})
		}
	}
}

// machine reads this machine's vital signs; what can't be read is absent.
func machine(stateDir string) func() wire.Metrics {
	var before *cpu.TimesStat
	self, selfErr := process.NewProcess(int32(os.Getpid()))
	return func() wire.Metrics {
		var m wire.Metrics
		if t, err := cpu.Times(false); err == nil && len(t) == 1 {
			if before != nil {
				m.CPUPercent = busyPercent(*before, t[0])
			}
			before = &t[0]
		}
		if v, err := mem.VirtualMemory(); err == nil {
			m.MemTotal, m.MemUsed = &v.Total, &v.Used
		}
		if d, err := diskfree.Of(stateDir); err == nil {
			m.DiskTotal, m.DiskFree = &d.Total, &d.Free
		}
		if l, err := load.Avg(); err == nil {
			m.Load1 = &l.Load1
		}
		if up, err := host.Uptime(); err == nil {
			m.UptimeSeconds = &up
		}
		m.NetRx, m.NetTx = traffic()
		if selfErr == nil {
			if i, err := self.MemoryInfo(); err == nil {
				m.AgentRSS = &i.RSS
			}
		}
		return m
	}
}

// busyPercent is the share of all cores' time not spent idle between two
// readings; nil if the counters went backwards.
func busyPercent(a, b cpu.TimesStat) *float64 {
	idle := b.Idle + b.Iowait - a.Idle - a.Iowait
	all := total(b) - total(a)
	if all <= 0 || idle < 0 || idle > all {
		return nil
	}
	p := 100 * (all - idle) / all
	return &p
}

// total leaves out guest time, which the kernel counts as user time too.
func total(t cpu.TimesStat) float64 {
	return t.User + t.System + t.Nice + t.Iowait + t.Irq + t.Softirq + t.Steal + t.Idle
}

// traffic sums up the bytes of all interfaces but loopback.
func traffic() (rx, tx *uint64) {
	loopback := map[string]bool{}
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, nil
	}
	for _, i := range ifs {
		loopback[i.Name] = i.Flags&net.FlagLoopback != 0
	}
	counters, err := psnet.IOCounters(true)
	if err != nil {
		return nil, nil
	}
	rx, tx = new(uint64), new(uint64)
	for _, c := range counters {
		if !loopback[c.Name] {
			*rx += c.BytesRecv
			*tx += c.BytesSent
		}
	}
	return rx, tx
}
