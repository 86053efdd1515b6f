package agent

import (
	"log/slog"

	"golang.org/x/sys/windows/svc/eventlog"

	"gururmm/agent/guardian"
)

type silentTeller struct{}

func (silentTeller) turn(guardian.Turn) {}
func (silentTeller) end(error)          {}

func (s *Setup) teller(log *slog.Logger) teller {
	if !s.Service {
		return silentTeller{}
	}
	l, err := eventlog.Open(ServiceName)
	if err != nil {
		log.Warn("event log", "error", err)
		return silentTeller{}
	}
	return newEventTeller(func(e event) {
		write := l.Info
		if e.bad {
			write = l.Error
		}
		if err := write(e.id, e.text); err != nil {
			log.Warn("event log", "error", err, "event", e.text)
		}
	}, func() { _ = l.Close() })
}
