package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// stageRefused marks an attempt that the agent refused: it arrived, and did not run.
const stageRefused wire.Stage = "refused"

var errDatabase = errors.New("the database failed; try again")

// agentStages are those an agent may report.
var agentStages = []wire.Stage{
	wire.StageRead, wire.StageDecoded, wire.StageVerified, wire.StageJournaled, wire.StageAcked,
	wire.StageStarted, wire.StageFinished, wire.StageResultWritten,
}

// message is one upstream message on its way in.
type message struct {
	r       *route
	ctx     context.Context
	channel wire.Channel
	link    wire.LinkID
	at      time.Time
	replies []wire.Envelope
}

// Upstream takes a command_ack, command_nack, command_output or command_result
// of this agent. Its effect is on disk before it returns. replies are to be sent
// back by the channel it came on, with an error too (then a nack, or what ends the repeats
// of a result that nobody waits for). The errors
// are ErrForeign, ErrUnparseable, or of the database: then nothing is to be
// answered, and the agent repeats.
func (s *Service) Upstream(ctx context.Context, agent string, ch wire.Channel, link wire.LinkID, at time.Time, env wire.Envelope) (replies []wire.Envelope, err error) {
	m := &message{ctx: ctx, channel: ch, link: link, at: at.UTC().Truncate(time.Microsecond)}
	var id string
	var handle func() error
	switch env.Type {
	case wire.TypeCommandAck:
		id, handle, err = reads(env, func(v wire.CommandAck) (string, func() error) { return v.ID, func() error { return m.ack(v) } })
	case wire.TypeCommandNack:
		id, handle, err = reads(env, func(v wire.Nack) (string, func() error) { return v.ID, func() error { return m.nack(v) } })
	case wire.TypeCommandOutput:
		id, handle, err = reads(env, func(v wire.CommandOutput) (string, func() error) { return v.ID, func() error { return m.output(v) } })
	case wire.TypeCommandResult:
		id, handle, err = reads(env, func(v wire.CommandResult) (string, func() error) { return v.ID, func() error { return m.result(v) } })
	default:
		err = fmt.Errorf("%w: %s is not for delivery", ErrUnparseable, env.Type)
	}
	if err == nil {
		err = s.do(ctx, agent, func() error {
			if m.r = s.route(agent); m.r == nil {
				return ErrStopped
			}
			m.replies = nil
			return handle()
		})
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrStopped) {
			return nil, err // the task may still be using m
		}
	}
	switch {
	case errors.Is(err, ErrForeign) && env.Type == wire.TypeCommandResult:
		return forgotten(id), err
	case errors.Is(err, ErrForeign):
		return refusal(wire.CodeWrongAgent, id, env, err), err
	case errors.Is(err, ErrUnparseable):
		return refusal(wire.CodeUnparseable, id, env, err), err
	}
	return m.replies, err
}

func reads[T any](env wire.Envelope, of func(T) (string, func() error)) (id string, handle func() error, err error) {
	v, err := wire.DecodePayload[T](env)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrUnparseable, err)
	}
	id, handle = of(v)
	if id == "" || len(id) > 64 {
		return "", nil, fmt.Errorf("%w: %s without a command id", ErrUnparseable, env.Type)
	}
	return id, handle, nil
}

func refusal(code wire.Code, id string, env wire.Envelope, err error) []wire.Envelope {
	nack, sealErr := wire.Seal(wire.TypeNack, wire.Nack{Code: code, ID: id, Type: env.Type, Seq: env.Seq, Detail: cut(err.Error())})
	if sealErr != nil {
		return nil // a struct of strings always encodes
	}
	return []wire.Envelope{nack}
}

// forgotten answers a result of a command that is not known, or not this agent's. A result
// repeats until it is stored: of a command that was deleted since (see package retention)
// that would be for ever, and a refusal is no end of it.
func forgotten(id string) []wire.Envelope {
	ack, err := wire.Seal(wire.TypeResultAck, wire.ResultAck{ID: id, Stored: true})
	if err != nil {
		return nil // a struct of plain fields always encodes
	}
	return []wire.Envelope{ack}
}

// find gives the job, or the command if it has ended, of this agent.
func (m *message) find(id string) (*job, store.Command, error) {
	if j := m.r.jobs[id]; j != nil {
		return j, j.c, nil
	}
	c, err := m.r.s.st.Command(m.ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && c.Agent != m.r.agent:
		return nil, c, fmt.Errorf("%w: %s", ErrForeign, cut(id)) // of one that never was as of another's: no more is told
	case err != nil:
		return nil, c, err
	case !c.State.Terminal():
		if m.r.s.o.Cluster != nil { // another node took it
			m.r.stale.Store(true)
			return nil, c, errOvertaken
		}
		return nil, c, errDatabase // stored, and not taken up here: the load failed half way
	}
	return nil, c, nil
}

func (m *message) reply(t wire.Type, payload any) {
	env, err := wire.Seal(t, payload)
	if err != nil {
		m.r.s.log.Error("reply could not be encoded", "type", string(t), "error", err)
		return
	}
	m.replies = append(m.replies, env)
}

// entry is a server-side stage at this message.
func (m *message) entry(stage wire.Stage, attempt int, note string) store.Stage {
	return store.Stage{TraceEntry: operator.TraceEntry{
		Stage: stage, At: m.at, End: "server", Attempt: attempt, Channel: m.channel, Link: linkName(m.link), Note: note,
	}}
}

func (m *message) ack(v wire.CommandAck) error {
	j, c, err := m.find(v.ID)
	if err != nil {
		return err
	}
	if j == nil {
		return m.ackTooLate(c)
	}
	return m.acknowledge(j, v.Stages, "")
}

// ackTooLate does what the table says of an ack of a command that has ended.
func (m *message) ackTooLate(c store.Command) error {
	rule, ok := Next(phaseOf(c), Ack)
	if !ok || c.AckedAt != nil {
		return nil // a repeat
	}
	if rule.Do.Has(CallOff) {
		if env, ok := m.r.cancelOrder(c.Agent, c.ID, m.r.now()); ok {
			m.replies = append(m.replies, env)
		}
	}
	return m.r.note(c.ID, m.entry(StageNote, c.Attempts, "acknowledged after it was "+string(c.State)))
}

// acknowledge takes in that the agent has j, with the agent's times.
func (m *message) acknowledge(j *job, times wire.StageTimes, note string) error {
	m.trust()
	if j.phase.taken() {
		return nil // a repeat
	}
	attempt := m.attempt(j, times)
	stages := append(m.agentTimes(j, times, attempt), m.entry(wire.StageAckRead, attempt, note))
	moved, err := m.r.move(j, Ack, told{at: m.at}, stages...)
	if moved {
		j.acked = attempt
		for i, stage := range agentStages {
			if _, ok := times[stage]; ok {
				j.heard |= 1 << i
			}
		}
	}
	if tell := m.r.s.o.Acked; moved && tell != nil {
		for _, c := range j.past {
			if c.attempt == attempt {
				tell(c.channel, m.at.Sub(c.at))
			}
		}
	}
	return err
}

// trust: a command came through by this link.
func (m *message) trust() {
	if m.channel != wire.ChannelLink {
		return
	}
	for _, l := range m.r.links {
		if l.ID() == m.link {
			l.suspect = false
		}
	}
}

// attempt tells which attempt the agent speaks of: the one that went out by this
// link, else the last one that was out when the agent read it.
func (m *message) attempt(j *job, times wire.StageTimes) int {
	n := 0
	for _, c := range j.past {
		if m.channel == wire.ChannelLink && c.link == m.link {
			n = c.attempt
		}
	}
	if n > 0 {
		return n
	}
	read, known := times[wire.StageRead]
	for _, c := range j.past {
		if known && !c.at.After(read) {
			n = c.attempt
		}
	}
	if n > 0 {
		return n
	}
	return j.c.Attempts
}

// agentTimes are the agent's stages that it has not told of j yet.
func (m *message) agentTimes(j *job, times wire.StageTimes, attempt int) []store.Stage {
	var out []store.Stage
	for i, stage := range agentStages {
		at, ok := times[stage]
		if j.heard&(1<<i) != 0 || !ok || at.Year() < 2000 || at.Year() > 2200 { // no clock is that wrong; it would not fit a µs column
			continue
		}
		e := m.entry(stage, attempt, "")
		e.At, e.End = at.UTC().Truncate(time.Microsecond), "agent"
		out = append(out, e)
	}
	return out
}

func (m *message) nack(v wire.Nack) error {
	j, c, err := m.find(v.ID)
	if err != nil {
		return err
	}
	said := "the agent refused it: " + string(v.Code)
	if v.Detail != "" {
		said += " (" + v.Detail + ")"
	}
	switch {
	case v.Type != "" && v.Type != wire.TypeCommand:
		return m.r.note(c.ID, m.entry(StageNote, c.Attempts, "the agent refused "+string(v.Type)+": "+string(v.Code)))
	case v.Code == wire.CodeDuplicate && v.Result != nil:
		v.Result.ID = v.ID
		return m.result(*v.Result)
	case v.Code == wire.CodeDuplicate && j == nil:
		return m.ackTooLate(c)
	case v.Code == wire.CodeDuplicate:
		return m.acknowledge(j, nil, "the agent knew it already from an earlier attempt")
	case j == nil, j.phase.taken():
		return m.r.note(c.ID, m.entry(StageNote, c.Attempts, said+"; it came too late"))
	}
	return m.refused(j, v, said)
}

// refused ends a command that the agent will never take, and gives back one
// that it can't take now, or that was spoilt on the way.
func (m *message) refused(j *job, v wire.Nack, said string) error {
	m.trust()
	r := m.r
	stage := m.entry(stageRefused, m.attempt(j, nil), said)
	end := func(ev Event) error {
		_, err := r.move(j, ev, told{reason: said}, stage)
		return err
	}
	switch v.Code {
	case wire.CodeExpired:
		return end(TooLate)
	case wire.CodeWrongAgent, wire.CodeUnsupported, wire.CodeTooLarge, wire.CodeQuarantined:
		return end(Refuse)
	}
	if j.claim == nil || j.claim.attempt != stage.Attempt {
		return r.note(j.c.ID, stage) // of an attempt that was given back before
	}
	if err := r.note(j.c.ID, stage); err != nil {
		return err
	}
	r.release(j, said)
	if !r.loaded {
		if r.keep { // another node has given it back
			return errOvertaken
		}
		return errDatabase
	}
	now := r.now()
	switch v.Code {
	case wire.CodeUnparseable, wire.CodeBadSignature:
		// Spoilt on the way: the other door may have it at once, this one later.
		j.refusals++
		j.notBefore[m.channel] = now.Add(min(refusedMin<<min(j.refusals-1, 10), refusedMax))
		if m.channel == wire.ChannelOOB {
			j.epoch = 0
		}
	default: // busy, draining, journal: the agent can't now, by whatever door
		r.wait(j, now)
	}
	return nil
}

// wait keeps j from being offered by any door for a while. What is left of its
// attempts is spread over what is left of its life, so that an agent that is
// busy for long does not use them up; a new link or a slot that becomes free
// ends the wait, see [route.unwait].
func (r *route) wait(j *job, now time.Time) {
	left := time.Duration(r.s.o.MaxAttempts - j.c.Attempts + 1)
	until := now.Add(max(refusedMin, j.c.ExpiresAt.Sub(now)/max(left, 1)))
	j.notBefore[wire.ChannelLink], j.notBefore[wire.ChannelOOB] = until, until
	j.epoch = 0 // time says when, no sign of life is needed
}

// unwait lets up to n of those that wait go at once, the oldest first. The second
// half of a command's attempts is left to time: an agent that is stopping, or
// sends a pile of results from before, has no slot for each of them.
func (r *route) unwait(n int) {
	now := r.now()
	for _, j := range r.byAge() {
		if n > 0 && 2*j.c.Attempts <= r.s.o.MaxAttempts && j.phase.waits() && now.Before(j.notBefore[wire.ChannelLink]) && now.Before(j.notBefore[wire.ChannelOOB]) {
			clear(j.notBefore)
			n--
		}
	}
}

func (m *message) output(v wire.CommandOutput) error {
	j, c, err := m.find(v.ID)
	if err != nil {
		return err
	}
	switch {
	case v.Stream != wire.Stdout && v.Stream != wire.Stderr:
		return fmt.Errorf("%w: stream %q", ErrUnparseable, cut(string(v.Stream)))
	case len(v.Data) > wire.MaxChunk:
		return fmt.Errorf("%w: a piece of %d bytes, at most %d are allowed", ErrUnparseable, len(v.Data), wire.MaxChunk)
	case v.Offset < 0 || v.Offset > c.MaxOutput-int64(len(v.Data)):
		return fmt.Errorf("%w: output beyond the %d bytes that were ordered", ErrUnparseable, c.MaxOutput)
	case j == nil:
		return nil // ended; a repeat
	}
	// Who has output has begun: an ack that got lost is not waited for.
	if err := m.acknowledge(j, nil, "told by its output"); err != nil {
		return err
	}
	_, err = m.merge(j, v.Stream, v.Offset, v.Data)
	return err
}

func (m *message) result(v wire.CommandResult) error {
	j, c, err := m.find(v.ID)
	if err != nil {
		return err
	}
	ev, known := resultEvents[v.State]
	if !known {
		return fmt.Errorf("%w: a result can't be %q", ErrUnparseable, cut(string(v.State)))
	}
	if v.StdoutBytes < 0 || v.StderrBytes < 0 || v.StdoutLost < 0 || v.StderrLost < 0 {
		return fmt.Errorf("%w: negative sizes", ErrUnparseable)
	}
	if j == nil {
		return m.resultTooLate(c, v)
	}
	if err := m.acknowledge(j, v.Stages, "told by its result"); err != nil {
		return err
	}
	ack := wire.ResultAck{ID: v.ID}
	if ack.HaveStdout, err = m.merge(j, wire.Stdout, 0, v.Stdout[:min(int64(len(v.Stdout)), c.MaxOutput)]); err != nil {
		return err
	}
	if ack.HaveStderr, err = m.merge(j, wire.Stderr, 0, v.Stderr[:min(int64(len(v.Stderr)), c.MaxOutput)]); err != nil {
		return err
	}
	if ack.HaveStdout < min(v.StdoutBytes, c.MaxOutput) || ack.HaveStderr < min(v.StderrBytes, c.MaxOutput) {
		m.reply(wire.TypeResultAck, ack) // not stored: the agent sends what is missing
		return nil
	}
	attempt := m.ackedAttempt(j)
	stages := append(m.agentTimes(j, v.Stages, attempt), m.entry(wire.StageResultStored, attempt, ""))
	moved, err := m.r.move(j, ev, told{reason: v.Reason, result: func(c *store.Command) {
		c.ExitCode, c.Orphans = v.ExitCode, v.Orphans
		// What was cut off, also by a bound that the agent did not keep.
		c.StdoutLost = v.StdoutLost + max(0, v.StdoutBytes-c.MaxOutput)
		c.StderrLost = v.StderrLost + max(0, v.StderrBytes-c.MaxOutput)
	}}, stages...)
	if err != nil {
		return err
	}
	if !moved { // never told to be stored when it is not
		return fmt.Errorf("a result that says %s has no effect on a command that is %s", v.State, j.phase)
	}
	m.r.mu.Lock()
	m.r.public.lastResult = &m.at
	m.r.mu.Unlock()
	ack.Stored = true
	m.reply(wire.TypeResultAck, ack)
	return nil
}

// merge stores a piece of output; have is what is held without a gap then.
func (m *message) merge(j *job, stream wire.Stream, offset int64, data []byte) (have int64, err error) {
	known := &j.c.StdoutBytes
	if stream == wire.Stderr {
		known = &j.c.StderrBytes
	}
	if offset+int64(len(data)) <= *known {
		return *known, nil // all of it is held: nothing to store
	}
	have, err = m.r.s.st.AddOutput(m.ctx, j.c.ID, stream, offset, data)
	if err == nil {
		*known = have
		m.r.s.touch(j.c.ID)
	}
	return have, err
}

// ackedAttempt is the attempt that the agent acknowledged, as the trace has it.
func (m *message) ackedAttempt(j *job) int {
	if j.acked > 0 {
		return j.acked
	}
	stages, err := m.r.s.st.Stages(m.ctx, j.c.ID, 0)
	if err != nil {
		return j.c.Attempts
	}
	for _, s := range stages {
		if s.Stage == wire.StageAckRead {
			return s.Attempt
		}
	}
	return j.c.Attempts
}

// resultTooLate answers a result of a command that has ended, so that the agent
// forgets it. One that contradicts what is stored is noted, not obeyed.
func (m *message) resultTooLate(c store.Command, v wire.CommandResult) error {
	same := c.State == v.State && (c.ExitCode == nil) == (v.ExitCode == nil) && (c.ExitCode == nil || *c.ExitCode == *v.ExitCode)
	if !same {
		said := "a later result says " + string(v.State)
		if v.ExitCode != nil {
			said += fmt.Sprintf(" with exit code %d", *v.ExitCode)
		}
		if err := m.r.note(c.ID, m.entry(StageNote, c.Attempts, said+"; ignored, the command was "+string(c.State)+" already")); err != nil {
			return err
		}
	}
	m.reply(wire.TypeResultAck, wire.ResultAck{ID: v.ID, Stored: true, HaveStdout: c.StdoutBytes, HaveStderr: c.StderrBytes})
	return nil
}
