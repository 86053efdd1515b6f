package delivery

import (
	"context"

	"gururmm/wire"
)

// Wake has the polls of an agent look again at whether anything is theirs.
func (s *Service) Wake(agent string) {
	if r := s.known(agent); r != nil {
		r.wake()
	}
}

// Call has the agent's guardian come by the second door now: a poll that waits looks again,
// and who understands it is called by its link. It may be lost; the next beacon is as good.
func (s *Service) Call(agent string) {
	if r := s.route(agent); r != nil {
		r.post(r.call)
	}
}

// TakeOrders takes what an agent in quarantine may have: pending cancels and
// directives, no commands; done as in Take.
func (s *Service) TakeOrders(ctx context.Context, agent string) ([]wire.Envelope, Done, error) {
	h := &handout{r: s.route(agent)}
	err := s.do(ctx, agent, func() error {
		if err := h.commands(0); err != nil {
			return err
		}
		return h.orders(ctx)
	})
	return h.result(ctx, err)
}
