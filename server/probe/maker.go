package probe

import (
	"encoding/json"
	"strings"
	"sync/atomic"
	"time"

	"gururmm/wire"
)

// Maker makes probes: signed, inert commands of a size.
type Maker struct {
	Sign func(t wire.Type, payload any) (wire.Envelope, error)

	around atomic.Int64 // see weigh; 0: not known yet
}

// Make makes a probe for agent that is valid for so long, whose frame on a link has size bytes
// (but for the digits of its number); where signature and ids alone take more, it is as small
// as it gets. weight is what it has.
func (m *Maker) Make(agent string, size int, life time.Duration) (cmd wire.Command, env wire.Envelope, weight int, err error) {
	now := time.Now()
	cmd = wire.Command{ID: wire.NewID(), Agent: agent, IssuedAt: now, ExpiresAt: now.Add(life)}
	bare, err := json.Marshal(cmd)
	if err != nil {
		return cmd, env, 0, err
	}
	around, err := m.weigh(cmd)
	if err != nil {
		return cmd, env, 0, err
	}
	if room := size - around - len(bare) - len(`,"pad":""`); room > 0 {
		cmd.Pad = strings.Repeat("x", room)
	}
	env, err = m.Sign(wire.TypeProbe, cmd)
	return cmd, env, around + len(env.Payload), err
}

// weigh is how many bytes a probe has beside its payload: the same for each, so
// it is signed once to be weighed, and not by each link of a fleet that returns.
func (m *Maker) weigh(cmd wire.Command) (int, error) {
	if n := m.around.Load(); n > 0 {
		return int(n), nil
	}
	env, err := m.Sign(wire.TypeProbe, cmd)
	if err != nil {
		return 0, err
	}
	env.Seq = 1 // for its digit
	raw, err := env.Encode()
	if err != nil {
		return 0, err
	}
	n := len(raw) - len(env.Payload)
	m.around.Store(int64(n))
	return n, nil
}
