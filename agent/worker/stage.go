package worker

import (
	"errors"
	"fmt"
	"time"

	"gururmm/agent/pipe"
)

// heldWait is how long the executor may be busy before nothing that needs it is
// started afresh: a journal's write takes so long on a slow disk.
const heldWait = 300 * time.Millisecond

// errNoStage says that a loop shares its fate with the process.
var errNoStage = errors.New("it can't be told apart from the process")

// restartStage starts one loop afresh, in place, and tells the guardian what came
// of it. Whatever was in the hands of the old loop is done by the new one, or asked
// for again by the server; the journal sees to it that nothing runs twice.
func (w *worker) restartStage(stage string) {
	err := w.renew(stage)
	f := pipe.StageFact{Stage: stage, Restarted: err == nil}
	if err != nil {
		f.Detail = err.Error()
	}
	w.log.Warn("a loop is started afresh", "loop", stage, "error", err)
	w.out.send(pipe.Fact{Stage: &f})
	if err == nil && w.exec.Held(0) == nil {
		if s := w.link.session(); s != nil {
			w.heartbeat(s) // its answer shows that text goes both ways
		}
	}
	w.change()
}

func (w *worker) renew(stage string) error {
	switch stage {
	case loopDispatcher:
		// Hanging in the journal it would leave the new one to hang there too.
		if err := w.exec.Held(heldWait); err != nil {
			return err
		}
		return w.dispatcher.replace(w.life, &w.children, loopDispatcher, w.inbox.handOver)
	case loopMetrics:
		return w.metrics.replace(w.life, &w.children, loopMetrics, nil)
	case loopExecutor:
		if err := w.exec.RestartLoop(heldWait); err != nil {
			return err
		}
		w.executor.restamp(time.Now())
		return nil
	case loopReader, loopWriter:
		return w.link.relink(fmt.Sprintf("the link's %s stands still", stage))
	}
	return errNoStage
}
