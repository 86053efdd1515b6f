package delivery

import (
	"context"

	"gururmm/server/store"
)

// ErrRemoved: the agent was removed; nothing can be ordered of it any more.
var ErrRemoved = store.ErrRemoved

// Retire ends what an agent that was removed still owes: nobody will tell of it any more.
// ended is how many commands that were. by is the operator token's name.
func (s *Service) Retire(ctx context.Context, agent, by string) (ended int, err error) {
	err = s.do(ctx, agent, func() error {
		r := s.route(agent)
		if r == nil {
			return ErrStopped
		}
		if err := r.fresh(); err != nil {
			return err
		}
		for _, j := range r.byAge() {
			reason := "the agent was removed by " + by + " before the command was offered to it"
			switch {
			case j.phase.taken():
				reason = "the agent was removed by " + by + " after it had acknowledged the command: what became of it is not known"
			case j.phase != Pending:
				reason = "the agent was removed by " + by + " after the command was offered to it: whether it ran is not known"
			}
			moved, err := r.move(j, Retire, told{reason: reason})
			if err != nil {
				return err
			}
			if moved {
				ended++
			}
		}
		r.wake()
		return nil
	})
	return ended, err
}
