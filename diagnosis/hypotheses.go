package diagnosis

// strength is how a hypothesis weighs one value of an observation, against the others.
type strength uint8

const (
	noBearing strength = iota
	excluded           // it can't be so: measured, it takes the hypothesis out
	unlikely
	possible // as likely as not, however rare it usually is
	expected
	certain // it follows from the mechanism, but for the odd exception
)

// factors multiply a value's usual share, of what is expected at least a half: a mechanism
// makes usual what usually is not. The shares are then made to add up to one. So of two
// values equally usual, an expected one has 9/(9+1) = 0.9, a certain one 0.99.
var factors = map[strength]struct {
	factor     float64
	word, gist string
}{
	excluded:  {0, "excluded", "it can't be so"},
	unlikely:  {1.0 / 9, "unlikely", "9 times rarer than usual"},
	noBearing: {1, "no bearing", "as usual"},
	possible:  {1, "possible", "as if it were usual in half of all cases"},
	expected:  {9, "expected", "9 times the half, or the usual if that is more"},
	certain:   {99, "certain", "99 times: it follows, but for the odd exception"},
}

// weighs is what a strength makes of a usual share, before all are made to add up to one.
func (s strength) weighs(usual float64) float64 {
	if s >= possible {
		usual = max(usual, 0.5)
	}
	return factors[s].factor * usual
}

// prediction is what a hypothesis says of one value, and why.
type prediction struct {
	strength strength
	id       string // of the observation
	value    string
	why      string
}

func sure(id, value, why string) prediction   { return prediction{certain, id, value, why} }
func likely(id, value, why string) prediction { return prediction{expected, id, value, why} }
func maybe(id, value, why string) prediction  { return prediction{possible, id, value, why} }
func rarely(id, value, why string) prediction { return prediction{unlikely, id, value, why} }
func never(id, value, why string) prediction  { return prediction{excluded, id, value, why} }

// The priors: ratios, not rates. One more step stands for three times as often.
const (
	hardly    = 1.0 / 9 // only where nothing nearer can be told
	rare      = 1.0
	uncommon  = 3.0
	common    = 9.0
	priorsWhy = "judged from what operators of such systems report; only ratios count, and one step is a factor of three, for finer ones can't be defended"
)

// hypothesis is one mechanism that may lose a command.
type hypothesis struct {
	id, title string
	mechanism string // one sentence
	// prior is its weight before anything is known; priorWhy says why.
	prior    float64
	priorWhy string
	loses    string // between which stages
	remedy   string
	// never, if given, rules it out by how the thing works, whatever was observed.
	never string
	// traits are predictions shared with others; what says lists of an observation
	// stands in place of all that they say of it.
	traits []trait
	says   []prediction
}

// trait is a list of predictions that several mechanisms share.
type trait struct {
	name string
	says []prediction
}

// UnknownID is the mechanism that is in no table: it predicts the usual of everything.
const UnknownID = "unknown"

// WellID is that nothing is wrong.
const WellID = "well"

const (
	unknownTitle = "Something that is in none of these tables"
	unknownPrior = common
	unknownWhy   = "no table of mechanisms is complete, so that none of them is as likely as a common one"
)

// The traits.
var (
	serverWrites = trait{"the server does its part", []prediction{
		likely("stage.claimed", "yes", "the server does its part"),
		likely("stage.written", "yes", "the server does its part"),
		likely("enqueue", "accepted", "a link is registered, and its queue moves"),
		likely("server.queue", "empty", "the server's writer works"),
		likely("server.writer", "idle", "the server's writer works"),
		likely("route", "same", "the server writes to the right link"),
		likely("ledger.owed", "standing", "what is not acknowledged stays owed"),
		likely("capture.server", "acked", "the frame leaves, and the next hop takes it"),
		rarely("restart.server", "cured", "the server is not what is ill"),
	}}
	unacked = trait{"the command is not acknowledged, nor run", []prediction{
		sure("stage.ack_read", "no", "the command never gets so far"),
		sure("stage.acked", "no", "the command never gets so far"),
		sure("stage.started", "no", "the command never gets so far"),
		sure("stage.result_stored", "no", "the command never gets so far"),
		rarely("verdict", "ok", "the agent is told what it is owed, and says so"),
	}}
	unread = trait{"text from the server does not reach the reader", []prediction{
		sure("stage.read", "no", "the text is gone before the agent"),
		likely("capture.agent", "absent", "the text is gone before the agent"),
	}}
	boxDrops = trait{"somebody between the ends leaves texts out", []prediction{
		sure("ledger.down", "gap", "pings come that count the lost texts"),
		likely("ping.down", "yes", "the box lets control frames pass"),
		likely("pong.up", "yes", "the agent's reader is free, and answers pings"),
		rarely("silence", "reconnected", "pings keep the deadline away"),
		likely("stream.later", "yes", "pings behind the lost text arrive: the box has ended one stream and made another"),
		likely("door", "runs", "the second door does not go through the box as a WebSocket"),
		likely("other_path", "cured", "another way has no such box"),
		rarely("restart.agent", "cured", "the box stays where it is"),
		rarely("restart.server", "cured", "the box stays where it is"),
		likely("restart.agent", "no_help", "the box stays where it is"),
		likely("site", "same", "its neighbours go through the same box"),
		likely("verdict", "link.text.lost", "the ledgers prove it"),
		rarely("refused", "unparseable", "what passes, passes unchanged"),
		rarely("history", "first_link", "a box knows nothing of the agent's starts"), rarely("history", "first_only", "a box knows nothing of the agent's starts"),
		rarely("reconnected", "affected", "a box knows nothing of the agent's starts"),
	}}
	agentTurns = trait{"the agent is well inside", []prediction{
		likely("agent.reader", "free", "the agent is well"),
		likely("agent.loop", "turns", "the agent is well"),
		likely("agent.process", "runs", "the agent is well"),
		likely("agent.slots", "free", "the agent is well"),
		likely("refused", "none", "the agent has nothing to refuse"),
	}}
	heard = trait{"text from the agent arrives", []prediction{
		likely("text.up", "yes", "the way up is open"),
		likely("ledger.up", "even", "the way up is open"),
	}}
	arrives = trait{"the path does its part", []prediction{
		likely("ledger.down", "even", "what was written was read"),
		sure("stage.read", "yes", "what was written was read"),
		likely("text.down", "flows", "what was written was read"),
		likely("capture.agent", "acked", "the frame arrives, and the kernel takes it"),
		likely("door", "lost", "the fault is in the agent, whichever door it comes by"),
		likely("other_path", "same", "the path is not what is ill"),
	}}
	bothWays = trait{"pings go down and pongs come up", []prediction{
		likely("ping.down", "yes", "the link itself is well"),
		likely("pong.up", "yes", "the agent's reader is free, and answers pings"),
		rarely("silence", "reconnected", "frames arrive"),
	}}
	oneEndpoint = trait{"it is the trouble of one endpoint", []prediction{
		likely("fleet", "fine", "it concerns this endpoint"),
		likely("site", "fine", "it concerns this endpoint"),
	}}
	byLink = trait{"it strikes single links", []prediction{
		likely("fleet", "fine", "it strikes single links"),
		maybe("site", "same", "a break of the site's line strikes all its links"),
	}}
	oneSite = trait{"it is the trouble of a place", []prediction{likely("fleet", "fine", "others do not go through there")}}
	alike   = trait{"no size is better off", []prediction{
		likely("sizes", "alike", "it does not look at the size"),
		rarely("probes", "large_fail", "it does not look at the size"),
	}}
	linkHolds = trait{"the link stays up", []prediction{
		likely("handshake", "opens", "a link can be opened"),
		likely("drops", "rare", "the link stays up"),
	}}
)

// traits in the order in which the page lists them.
var traits = []trait{serverWrites, unacked, unread, boxDrops, agentTurns, heard, arrives, bothWays, oneEndpoint, byLink, oneSite, alike, linkHolds}
