package diagnosis

// is names one value of an observation.
type is struct{ id, value string }

// proof is what measured facts prove together: a conclusion that needs no ranking.
type proof struct {
	when   []is // all of them, measured
	says   string
	leaves []string // the mechanisms that are still possible; all others are out
}

var (
	droppers = []string{"path.text.all", "path.text.size", "path.text.count", "path.text.first", "path.fragment", "path.tls"}
	routers  = []string{"route.zombie", "route.cleanup", "server.state", "server.blocked", "server.unwritten"}
	insiders = []string{"agent.dispatcher", "agent.decode", "agent.rejected", "agent.slot", "agent.full", "agent.ack", "agent.writer", "agent.journal", "agent.clock", "agent.crashloop", "agent.hung", "path.text.altered", "path.compression", "path.uplink", "path.idle"}
)

// sometimes are the mechanisms that let one command run and lose another.
var sometimes = []string{"path.text.size", "path.text.count", "path.text.first", "path.fragment", "path.text.altered", "path.uplink", "path.mtu", "path.halfopen", "server.unwritten",
	"agent.decode", "agent.rejected", "agent.full", "agent.slot", "agent.hung", "agent.crashloop", "agent.reader.handler", "agent.dispatcher", "agent.writer", "agent.journal"}

// proofs, the nearest to the cause first.
var proofs = []proof{
	{[]is{{"fragment", "open"}, {"ledger.down", "gap"}}, "A message was begun and not finished, and a later ping came: it was lost between written and read, in its middle.", []string{"path.fragment"}},
	{[]is{{"ledger.down", "gap"}}, "Text was lost between written and read: a ping that counts it was read, and the text was not, in one ordered stream. Somebody between the ends who ends that stream left it out.", droppers},
	{[]is{{"ledger.down", "late"}}, "Text came late: pings overtook it. Nothing was lost.", []string{"path.text.delayed"}},
	{[]is{{"ledger.down", "excess"}}, "More texts were read than the server wrote: some were repeated or made up on the way.", []string{"path.text.altered"}},
	{[]is{{"ledger.digest", "differ"}}, "At least one text was changed on the way: both ends count the same texts, and their digests differ.", []string{"path.text.altered", "path.compression", "path.tls"}},
	{[]is{{"ledger.up", "gap"}}, "Text of the agent was lost on its way up: a later ping that counts it came to the server, the text did not.", []string{"path.uplink", "path.tls"}},
	{[]is{{"stage.claimed", "yes"}, {"stage.written", "no"}}, "The command was lost between claimed and written: it never left the server.", []string{"server.unwritten", "server.blocked"}},
	{[]is{{"stage.claimed", "no"}, {"route", "same"}, {"verified", "yes"}}, "The command was not taken for the link that is registered and verified: it never left the server's books.", []string{"server.state", "server.blocked"}},
	{[]is{{"stage.read", "yes"}, {"stage.ack_read", "no"}}, "The command was lost after read: the path down is cleared, it came to the agent whole.", insiders},
	{[]is{{"stage.acked", "yes"}, {"stage.ack_read", "no"}}, "The acknowledgement was lost between acked and ack_read.", []string{"path.uplink", "agent.ack", "agent.writer", "path.idle", "agent.crashloop"}},
	{[]is{{"refused", "unparseable"}}, "The agent refused the message as unparseable: it arrived, and could not be read.", []string{"agent.decode", "path.text.altered", "path.compression"}},
	{[]is{{"refused", "unsupported"}}, "The agent refused the message as unsupported: it arrived, and is of a kind that this version does not know.", []string{"agent.rejected", "agent.decode"}},
	{[]is{{"refused", "signature"}}, "The agent refused the command for its signature or addressee.", []string{"agent.rejected", "path.text.altered", "path.tls"}},
	{[]is{{"refused", "expired"}}, "The agent refused the command as expired, by its clock.", []string{"agent.clock", "agent.rejected", "path.text.delayed"}},
	{[]is{{"refused", "busy"}}, "The agent refused the command as busy.", []string{"agent.full", "agent.slot"}},
	{[]is{{"refused", "journal"}}, "The agent refused the command, for it can't write its journal.", []string{"agent.journal"}},
	{[]is{{"route", "other"}}, "The server writes this agent's commands to another link than the one that the agent uses.", []string{"route.zombie", "identity.instances", "identity.clone"}},
	{[]is{{"route", "none"}}, "A live link of this agent is not in the server's register.", []string{"route.cleanup", "server.state"}},
	{[]is{{"instances", "same_machine"}}, "Two agents on one machine use this identity.", []string{"identity.instances"}},
	{[]is{{"instances", "other_machine"}}, "Another machine uses this identity.", []string{"identity.clone"}},
	{[]is{{"agent.loop", "reader"}}, "The agent's reader stands still: its token stays.", []string{"agent.reader.handler"}},
	{[]is{{"agent.loop", "dispatcher"}}, "The agent's dispatcher stands still: its token stays.", []string{"agent.dispatcher"}},
	{[]is{{"agent.loop", "writer"}}, "The agent's writer stands still: its token stays.", []string{"agent.writer", "agent.ack"}},
	{[]is{{"agent.loop", "executor"}}, "The agent's executor stands still: its token stays.", []string{"agent.slot"}},
	{[]is{{"agent.slots", "stuck"}}, "Jobs that have ended hold the executor's places.", []string{"agent.slot"}},
	{[]is{{"agent.process", "hung"}}, "The agent's process lives and does not report.", []string{"agent.hung"}},
	{[]is{{"agent.process", "restarts"}}, "The agent's process ends again and again.", []string{"agent.crashloop"}},

	{[]is{{"verdict", "ok"}, {"ledger.down", "even"}, {"stage.result_stored", "yes"}}, "Nothing was lost: the agent's own verdict, the ledgers and the stages of the last command say so.", []string{"well"}},
	{[]is{{"verdict", "ok"}, {"ledger.down", "even"}, {"ledger.owed", "none"}}, "Nothing was lost, and nothing waits: the agent's own verdict and the ledgers say so.", []string{"well"}},
	{[]is{{"heard", "stopped"}}, "The agent has said that it stops, and was not heard since.", []string{"agent.away"}},
	{[]is{{"verdict", "ok.idle"}, {"ledger.down", "even"}}, "Nothing was lost, and nothing is under way: the agent's own verdict and the ledgers say so.", []string{"well"}},
	{[]is{{"stage.ack_read", "yes"}, {"stage.result_stored", "yes"}}, "The command was not lost: it was acknowledged, and its result is stored. That leaves what does not lose each.", append([]string{"well", "path.idle", "path.text.delayed", "oob.blocked", "agent.metrics", "identity.instances", "identity.clone"}, sometimes...)},

	// Verdicts are proofs of their own: see docs/protocol.md for what proves each.
	{[]is{{"verdict", "link.text.lost"}}, "Text was lost between written and read, by the ledgers.", droppers},
	{[]is{{"verdict", "link.text.delayed"}}, "Text came late: pings overtook it.", []string{"path.text.delayed"}},
	{[]is{{"verdict", "link.text.altered"}}, "Text was changed, repeated or made up on the way, by the ledgers.", []string{"path.text.altered", "path.tls"}},
	{[]is{{"verdict", "link.text.stuck_fragment"}}, "A message was begun and never finished.", []string{"path.fragment"}},
	{[]is{{"verdict", "link.text.silent"}}, "Pings go through and text does not, by the server's own view.", []string{"path.text.all", "path.text.size", "path.text.count", "path.text.first", "path.uplink", "path.tls", "path.ping.foreign", "route.cleanup"}},
	{[]is{{"verdict", "link.uplink.lost"}}, "Text of the agent was lost on its way up, by the ledgers.", []string{"path.uplink", "path.tls"}},
	{[]is{{"verdict", "link.ping.foreign"}}, "Something on the way answers in the server's place.", []string{"path.ping.foreign"}},
	{[]is{{"verdict", "link.silent"}}, "Nothing came over the link for longer than it may, pings neither.", []string{"path.halfopen", "path.mtu", "path.ping.foreign", "server.unwritten", "server.blocked", "agent.hung", "agent.writer", "agent.away"}},
	{[]is{{"verdict", "link.handshake"}}, "No link could be opened.", []string{"path.handshake", "path.mtu", "path.tls", "agent.clock"}},
	{[]is{{"verdict", "link.flapping"}}, "Links kept dropping.", []string{"path.idle", "path.halfopen", "identity.instances", "identity.clone", "agent.crashloop"}},
	{[]is{{"verdict", "link.quarantined"}}, "An operator has quarantined it.", []string{"operator.quarantined"}},
	{[]is{{"verdict", "agent.removed"}}, "An operator has removed it.", []string{"operator.removed"}},
	{[]is{{"verdict", "route.stale"}}, "The server owes commands and wrote none to the link that the agent uses: the path and the agent are cleared.", routers},
	{[]is{{"verdict", "route.unwritten"}}, "The server holds messages for this link and does not write them.", []string{"server.unwritten", "server.blocked"}},
	{[]is{{"verdict", "route.duplicate"}}, "Two that are both alive use this identity.", []string{"identity.instances", "identity.clone"}},
	{[]is{{"verdict", "agent.decode"}}, "Messages arrive whole, and the agent can't read them.", []string{"agent.decode", "path.compression"}},
	{[]is{{"verdict", "agent.rejected"}}, "The agent refuses messages.", []string{"agent.rejected", "agent.clock", "path.tls"}},
	{[]is{{"verdict", "agent.stalled.reader"}}, "The agent's reader stands still.", []string{"agent.reader.handler"}},
	{[]is{{"verdict", "agent.stalled.dispatcher"}}, "The agent's dispatcher stands still.", []string{"agent.dispatcher"}},
	{[]is{{"verdict", "agent.stalled.writer"}}, "The agent's writer stands still.", []string{"agent.writer", "agent.ack"}},
	{[]is{{"verdict", "agent.stalled.executor"}}, "The agent's executor stands still.", []string{"agent.slot"}},
	{[]is{{"verdict", "agent.stalled.metrics"}}, "The endpoint's figures can't be read; commands do not wait for them.", []string{"agent.metrics"}},
	{[]is{{"verdict", "agent.executor_full"}}, "All places for jobs are taken.", []string{"agent.full", "agent.slot"}},
	{[]is{{"verdict", "agent.hung"}}, "The worker did not report.", []string{"agent.hung"}},
	{[]is{{"verdict", "agent.crashloop"}}, "The worker kept exiting.", []string{"agent.crashloop"}},
	{[]is{{"verdict", "agent.journal"}}, "The agent can't write its journal.", []string{"agent.journal"}},
	{[]is{{"verdict", "oob.unreachable"}}, "The second door can't be reached.", []string{"oob.blocked"}},
	{[]is{{"verdict", "oob.rejected"}}, "The second door refuses the agent.", []string{"oob.blocked", "agent.clock"}},
}

// clash is a pair of values that can't both be so; one alone clashes with what is
// described around it.
type clash struct {
	a, b is
	why  string
}

var clashes = []clash{
	{is{"stage.claimed", "no"}, is{"stage.written", "yes"}, "what nobody claimed is not written"},
	{is{"stage.written", "no"}, is{"stage.read", "yes"}, "what was not written can't be read"},
	{is{"stage.written", "no"}, is{"capture.server", "acked"}, "what was not written can't leave"},
	{is{"enqueue", "refused"}, is{"stage.written", "yes"}, "what no queue took is not written"},
	{is{"server.queue", "standing"}, is{"stage.written", "yes"}, "it still waits, or it was written: perhaps of two commands"},
	{is{"stage.read", "no"}, is{"stage.acked", "yes"}, "what was not read can't be acknowledged"},
	{is{"stage.read", "no"}, is{"stage.started", "yes"}, "what was not read can't run, unless it came by another door"},
	{is{"stage.acked", "no"}, is{"stage.ack_read", "yes"}, "what was not sent can't be read"},
	{is{"stage.started", "no"}, is{"stage.result_stored", "yes"}, "what did not run has no result"},
	{is{"ping.down", "no"}, is{"pong.up", "yes"}, "a pong answers a ping that was read; else a box makes it"},
	{is{"ping.down", "yes"}, is{"agent.reader", "busy"}, "a reader that is blocked reads no pings"},
	{is{"agent.reader", "busy"}, is{"pong.up", "yes"}, "a reader that is blocked answers no pings"},
	{is{"ping.down", "yes"}, is{"silence", "reconnected"}, "pings keep the deadline away"},
	{is{"ping.down", "no"}, is{"silence", "none"}, "without any frame its deadline would have fired"},
	{is{"agent.loop", "turns"}, is{"agent.reader", "busy"}, "a reader that turns is not blocked"},
	{is{"agent.process", "hung"}, is{"text.up", "yes"}, "a process that hangs sends nothing"},
	{is{"agent.process", "hung"}, is{"agent.loop", "turns"}, "a process that hangs turns no loop"},
	{is{"heard", "no"}, is{"text.up", "yes"}, "who is heard by its texts is heard"},
	{is{"handshake", "fails"}, is{"text.up", "yes"}, "without a link there is no text on it"},
	{is{"text.down", "none"}, is{"verified", "yes"}, "the policy that was confirmed is a text"},
	{is{"text.down", "none"}, is{"stage.read", "yes"}, "the command that was read is a text"},
	{is{"text.up", "no"}, is{"stage.ack_read", "yes"}, "the acknowledgement is a text"},
	{is{"ledger.down", "gap"}, is{"capture.agent", "acked"}, "a frame that arrived in order is read before the ping behind it: what was captured is perhaps another frame"},
	{is{"ledger.down", "gap"}, is{"verdict", "ok"}, "a gap is a verdict of its own"},
	{is{"ledger.down", "even"}, is{"verdict", "link.text.lost"}, "the ledgers agree, or they do not: perhaps at two times"},
	{is{"stage.written", "yes"}, is{"verdict", "route.unwritten"}, "it was written, or it waits: perhaps of two commands"},
	{is{"capture.agent", "absent"}, is{"stage.read", "yes"}, "what did not arrive can't be read"},
	{is{"capture.server", "absent"}, is{"stage.read", "yes"}, "what did not leave can't be read"},
	{is{"sizes", "alike"}, is{"probes", "large_fail"}, "the size matters, or it does not"},
	{is{"sizes", "alike"}, is{"probes", "pass"}, "probes go the way of commands: commands must be lost for another reason than the way, or at another time"},
	{is{"sizes", "large"}, is{"probes", "all_fail"}, "small ones pass, or they do not"},
	{is{"links", "one"}, is{"route", "other"}, "without another link nothing is written to it"},
	{is{"fleet", "all"}, is{"site", "fine"}, "the site is part of the fleet"},
	{is{"ending", "against_rule"}, is{}, "what happened and the rules as they are described exclude each other: the rules, the version, or what the server takes this agent for is not what it is said to be"},
}
