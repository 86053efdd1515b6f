package diagnosis

import "gururmm/selfcheck"

// Unknown is the value of what is not known; it changes nothing.
const Unknown = "unknown"

// option is one value that an observation may have.
type option struct {
	value string
	// usual is how often it is so, against the other values, where a command was lost and
	// the cause has no bearing on it. It is what no bearing and the unknown mechanism go by.
	usual float64
	means string
}

// observed is one row of the vocabulary.
type observed struct {
	id string
	// question it answers. Of observations with the same question only the strongest for
	// and the strongest against a hypothesis count: they say the same thing.
	question string
	asks     string // one sentence
	seenBy   string // where it is measured, or who can say
	values   []option
	// many: several values may be so at once; what speaks for a mechanism then stands, and
	// what only does not concern it is no evidence against.
	many bool
}

// The questions.
const (
	onServer   = "Did the server write the command to this link?"
	arrival    = "Does text from the server reach the agent?"
	turning    = "Do the server's pings reach the agent, and does its reader turn?"
	pinger     = "Who makes the pings?"
	upward     = "Does text from the agent reach the server?"
	answered   = "Was the command acknowledged, and is its result stored?"
	insideWay  = "How far did the command come inside the agent?"
	content    = "Does what arrives arrive unchanged and readable?"
	whichSize  = "Does the size matter?"
	whichText  = "Which texts of a link are lost?"
	order      = "Did anything later of the same stream arrive?"
	identity   = "Who uses this identity?"
	freshness  = "Does a fresh link help?"
	presence   = "Is the agent there at all?"
	opening    = "Can a link be opened?"
	dropping   = "Does the link hold?"
	inside     = "Does the agent work inside?"
	room       = "Has the agent a place to run it?"
	refusal    = "Does the agent refuse it?"
	storage    = "Can the agent write to its disk?"
	routing    = "Which link does the server use for this agent?"
	bookkeep   = "Is what the database says so?"
	spreadAll  = "How many are affected?"
	spreadVers = "Are others of the same version affected?"
	spreadLink = "Does it go by how often an agent has reconnected?"
	spreadSite = "Are others at the same site affected?"
	clockWise  = "Is the clock right?"
	trust      = "Who ends TLS?"
	cureAgent  = "What does a restart of the agent cure?"
	cureServer = "What does a restart of the server cure?"
	cureQueue  = "Does clearing what waits cure it?"
	past       = "When did it last work?"
	changed    = "What changed before?"
	otherPath  = "Does another way help?"
	serverCap  = "What does a capture at the server show?"
	agentCap   = "What does a capture at the endpoint show?"
	ending     = "Did the command end by the rules in force?"
	verdictOf  = "What does the agent's own verdict say?"
)

const (
	serverSees = "server"
	agentSees  = "agent"
	personSees = "a person"
)

// vocabulary is all that can be observed, in the order of a command's way.
var vocabulary = []observed{
	// The server's end.
	{"stage.claimed", onServer, "Was the command taken for a link (stage claimed)?", serverSees + ": trace", []option{
		{"yes", 9, "it was"}, {"no", 1, "it stays pending"}}, false},
	{"enqueue", onServer, "Did the link's queue take it? (It says nothing of the wire.)", serverSees, []option{
		{"accepted", 9, "the queue took it"}, {"refused", 1, "there was no link, or its queue was full"}}, false},
	{"server.queue", onServer, "What waits in the link's queue?", serverSees + ": queued in its view of the link", []option{
		{"empty", 9, "nothing"}, {"standing", 1, "messages, and they do not get fewer"}}, false},
	{"server.writer", onServer, "Is the link's writer in a write?", serverSees, []option{
		{"idle", 9, "no, or for a moment"}, {"busy", 1, "for longer than a write may take"}}, false},
	{"stage.written", onServer, "Was it given to the connection to its last byte (stage written)?", serverSees + ": trace", []option{
		{"yes", 9, "it was"}, {"no", 1, "it was not"}}, false},
	{"route", routing, "Is the link that commands are written to the one the agent uses?", serverSees + " and " + agentSees + ": link ids", []option{
		{"same", 40, "it is"}, {"other", 1, "they go to another link of this agent"}, {"none", 1, "no link is registered, and one is alive"}}, false},
	{"ledger.owed", bookkeep, "What does the server's ledger say it owes?", agentSees + ": owed in pings", []option{
		{"none", 2, "nothing, and nothing waits"}, {"standing", 4, "commands, not getting fewer"}, {"missing", 1, "nothing, while a command waits"}}, false},
	{"server.state", bookkeep, "Does the database agree with what the nodes hold?", serverSees, []option{
		{"agrees", 20, "it does"}, {"behind", 1, "it names a claim, node or presence that is over"}}, false},
	{"ending", ending, "Did the command end as the server's own rules have it?", serverSees, []option{
		{"by_rule", 20, "it did"}, {"against_rule", 1, "it failed earlier or otherwise than they say"}}, false},

	// On the way down.
	{"ledger.down", arrival, "Does the agent read as many texts as the server writes?", "both ends: ledgers", []option{
		{"even", 20, "it does"}, {"gap", 1, "a later ping came, texts before it did not"}, {"late", 1, "pings overtook texts, which came after all"},
		{"excess", 0.2, "it reads more than were written"}}, false},
	{"stage.read", arrival, "Did the agent read the command (stage read)?", agentSees + ": heartbeats and beacons", []option{
		{"yes", 1, "it did"}, {"no", 1, "it did not"}}, false},
	{"text.down", arrival, "Does the agent read any text of the server on this link?", agentSees + ": age of the last text", []option{
		{"flows", 1, "it does"}, {"stopped", 1, "it did, and no more"}, {"none", 1, "never on this link"}}, false},
	{"verified", arrival, "Did the agent confirm its policy on this link?", serverSees + ": config_ack", []option{
		{"yes", 1, "it did"}, {"no", 1, "it did not"}}, false},
	{"ping.down", turning, "Does the agent read the server's pings?", agentSees + ": frames by type", []option{
		{"yes", 9, "it does"}, {"no", 1, "it does not"}}, false},
	{"pong.up", turning, "Do pongs to the server's pings come back?", serverSees, []option{
		{"yes", 9, "they do"}, {"no", 1, "they do not"}}, false},
	{"silence", turning, "Did the agent reconnect for silence in its deadline?", serverSees + ": its links, and the agent's source", []option{
		{"reconnected", 1, "it did"},
		{"none", 4, "it did not, and the deadline has a timer of its own"},
		{"none_in_loop", 4, "it did not, but the deadline is looked at where the reader and its handlers run: a blocked handler suspends it"}}, false},
	{"agent.reader", turning, "Is the agent's reader free?", agentSees + ": its token", []option{
		{"free", 20, "it waits for the next frame"}, {"busy", 1, "it has been in one thing for too long"}}, false},
	{"ping.ledger", pinger, "Do pings and pongs carry the server's ledger?", agentSees, []option{
		{"server", 40, "they do"}, {"foreign", 1, "they came without it, or were answered by another"}}, false},
	{"stream.later", order, "Was a later frame of the same TCP connection read after the lost text?", "both ends: ledgers, or captures", []option{
		{"yes", 1, "one was"}, {"no", 1, "nothing came after it"}}, false},
	{"ledger.digest", content, "Do the digests of equally many texts agree?", "both ends: ledgers", []option{
		{"same", 100, "they do"}, {"differ", 1, "at least one text was changed"}}, false},
	{"fragment", content, "Is a message begun and not finished?", agentSees + ": frames", []option{
		{"none", 100, "no"}, {"open", 1, "one was begun, and its end does not come"}}, false},
	{"compression", content, "Is compression in use on the link?", "both ends: upgrade", []option{
		{"off", 3, "it was not negotiated"}, {"on", 1, "it was"}}, false},
	{"sizes", whichSize, "Which sizes are lost?", personSees + ", or probes", []option{
		{"alike", 2, "tiny and large alike"}, {"large", 1, "large ones only"}, {"tiny", 0.3, "tiny ones only"}}, false},
	{"probes", whichSize, "Do inert probes of both sizes pass?", "both ends: probes of a new link, doctor's echo", []option{
		{"pass", 2, "both do"}, {"large_fail", 1, "the large ones do not"}, {"all_fail", 1, "none does"}}, false},
	{"lost.which", whichText, "Which texts of one link are lost?", "both ends: ledgers, or trials", []option{
		{"all", 3, "all"}, {"after_some", 1, "all after some"}, {"first", 1, "the first only"}, {"some", 1, "now and then one"}}, false},

	// On the way up.
	{"text.up", upward, "Does the server read the agent's texts on this link?", serverSees + ": heartbeats", []option{
		{"yes", 9, "it does"}, {"no", 1, "it does not"}}, false},
	{"ledger.up", upward, "Does the server read as many texts as the agent writes?", "both ends: ledgers", []option{
		{"even", 20, "it does"}, {"gap", 1, "a later ping came, texts before it did not"}, {"excess", 0.2, "it reads more than were written"}}, false},
	{"stage.ack_read", answered, "Did the server read the acknowledgement (stage ack_read)?", serverSees + ": trace", []option{
		{"yes", 1, "it did"}, {"no", 1, "it did not"}}, false},

	// Inside the agent.
	{"stage.acked", insideWay, "Did the agent give an acknowledgement to its writer (stage acked)?", agentSees, []option{
		{"yes", 1, "it did"}, {"no", 1, "it did not"}}, false},
	{"stage.started", insideWay, "Did the command run (stage started)?", agentSees + ": journal, or what it left behind", []option{
		{"yes", 1, "it did"}, {"no", 1, "it did not"}}, false},
	{"stage.result_stored", answered, "Has the server the result (stage result_stored)?", serverSees + ": trace", []option{
		{"yes", 1, "it has"}, {"no", 2, "it has not"}}, false},
	{"agent.loop", inside, "Does a loop of the agent leave its token undrained?", agentSees, []option{
		{"turns", 50, "all turn"}, {"reader", 1, "the reader's"}, {"dispatcher", 1, "the dispatcher's"}, {"writer", 1, "the writer's"}, {"executor", 1, "the executor's"}}, false},
	{"agent.process", inside, "Does the agent's process live and report?", agentSees + ": guardian", []option{
		{"runs", 60, "it does"}, {"hung", 1, "it lives and does not report"}, {"restarts", 1, "it ends again and again"}}, false},
	{"agent.slots", room, "Are the executor's places free?", agentSees + ": jobs", []option{
		{"free", 30, "they are"}, {"working", 1, "jobs that run hold all of them"}, {"stuck", 1, "jobs that have ended hold them"}}, false},
	{"refused", refusal, "What did the agent answer it with?", "both ends: nacks", []option{
		{"none", 90, "no refusal, and it counts none"}, {"unparseable", 1, "it could not be read"}, {"unsupported", 1, "it is of a kind or version unknown to it"},
		{"signature", 1, "its signature or addressee does not fit"}, {"expired", 1, "it had expired, by the agent's clock"}, {"busy", 1, "no place, or it is going down"}, {"journal", 1, "it can't be journaled"}}, true},
	{"agent.disk", storage, "Can the agent write its journal?", agentSees, []option{
		{"ok", 60, "it can"}, {"full", 1, "the disk is full or not writable"}}, false},

	// The link.
	{"heard", presence, "Is the agent heard of, by any door?", serverSees, []option{
		{"now", 20, "it is"}, {"stopped", 1, "no, and the last it said was that it stops"}, {"no", 1, "no, and it did not say why"}}, false},
	{"handshake", opening, "Does a new link open?", "both ends", []option{
		{"opens", 15, "it does"}, {"fails", 1, "it does not"}}, false},
	{"drops", dropping, "How often does the link end by itself?", serverSees + ": events", []option{
		{"rare", 4, "rarely"}, {"often", 1, "again and again"}, {"regular", 1, "each time after the same silence"}}, false},
	{"fresh_link", freshness, "Does a fresh link help?", serverSees + ": a reconnect, forced or not", []option{
		{"cured", 1, "it does, for good"}, {"while", 1, "for the first commands, or for a while"}, {"no_help", 2, "it does not"}}, false},
	{"links", identity, "How many links has the server for this identity?", serverSees, []option{
		{"one", 30, "one"}, {"several", 1, "several"}}, false},
	{"instances", identity, "How many agents use this identity?", "both ends: instance, boot, fingerprint", []option{
		{"one", 100, "one"}, {"same_machine", 1, "two on one machine"}, {"other_machine", 1, "one on another machine too"}}, false},
	{"clock", clockWise, "How far is the endpoint's clock off?", "both ends: clocks in ledgers", []option{
		{"right", 40, "by seconds at most"}, {"wrong", 1, "by more than a command or token is valid for"}}, false},
	{"tls.issuer", trust, "Is the certificate that the agent sees the server's own?", agentSees + ": doctor's tls", []option{
		{"same", 30, "it is"}, {"changed", 1, "another issuer signed it: somebody on the way opens the connection"}}, false},

	// Around it.
	{"fleet", spreadAll, "How is the rest of the fleet?", serverSees, []option{
		{"fine", 15, "commands run there"}, {"all", 1, "none runs anywhere, or on this node"}}, false},
	{"version.peers", spreadVers, "Do agents of the same version run commands elsewhere?", serverSees, []option{
		{"yes", 9, "they do"}, {"no", 1, "none of them does"}}, false},
	{"reconnected", spreadLink, "Are those affected that have made a new link since their process started?", serverSees, []option{
		{"affected", 1, "they are, and those that still have their first link are well"}, {"mixed", 6, "no: agents that have made new links run commands, too"}}, false},
	{"site", spreadSite, "How are other agents of the same site?", serverSees + ", " + personSees, []option{
		{"fine", 2, "well"}, {"same", 1, "the same"}}, false},
	{"restart.agent", cureAgent, "What did a restart of the agent's process cure?", personSees + ", or the restart_worker directive", []option{
		{"cured", 1, "all, for good"}, {"once", 1, "one command or so, then it was back"}, {"no_help", 1, "nothing"}}, false},
	{"restart.server", cureServer, "What did a restart of the server's process cure?", personSees, []option{
		{"cured", 1, "all"}, {"no_help", 2, "nothing"}}, false},
	{"cleared", cureQueue, "Did it help to cancel all that waited and try one alone?", personSees, []option{
		{"helps", 1, "it did"}, {"no_help", 2, "it did not"}}, false},
	{"history", past, "When did a command last run there?", serverSees, []option{
		{"first_link", 1, "on the first link after a start of the agent, not on later ones"}, {"first_only", 1, "the first after each start of the agent, no second"},
		{"before_change", 2, "before the change named by change"}, {"never", 1, "never"}}, false},
	{"change", changed, "What changed shortly before?", personSees, []option{
		{"nothing", 3, "nothing that is known"}, {"agent_update", 1, "the agent's version"}, {"server_update", 1, "the server's version"}, {"network", 1, "the network, a proxy or a security product"}, {"copy", 0.5, "a machine was cloned, restored or renamed"}}, true},
	{"other_path", otherPath, "What does the same endpoint do by another network or straight to the origin?", personSees, []option{
		{"cured", 1, "all is well"}, {"same", 1, "the same"}}, false},
	{"door", otherPath, "What comes of the same command by the second door?", "both ends: trace", []option{
		{"runs", 1, "it runs"}, {"lost", 1, "it does not run either"}}, false},
	{"capture.server", serverCap, "What does a capture at the server's last hop show of the command's frame?", personSees, []option{
		{"acked", 3, "it leaves and TCP acknowledges it"}, {"unacked", 1, "it leaves and is sent again and again"}, {"absent", 1, "it does not leave"}}, false},
	{"capture.agent", agentCap, "What does a capture at the endpoint show of the command's frame?", personSees, []option{
		{"acked", 1, "it arrives and TCP acknowledges it"}, {"window", 0.3, "it is held back: the endpoint's window is closed"}, {"absent", 1, "it does not arrive, while other frames do"}, {"nothing", 0.5, "nothing at all arrives"}}, false},
	{"verdict", verdictOf, "What is the verdict, proven, of the agent or of its link?", agentSees + ", " + serverSees, verdicts, true},
}

// verdicts are the codes of [selfcheck]; a suspected one is no fact: give it as inferred.
var verdicts = []option{
	{code(selfcheck.CodeOK), 20, "all is well"},
	{code(selfcheck.CodeOKIdle), 20, "all is well, nothing to say"},
	{code(selfcheck.CodeLinkConnecting), 1, "the link is being established"},
	{code(selfcheck.CodeLinkSilent), 1, "nothing comes over the link"},
	{code(selfcheck.CodeLinkHandshake), 1, "no link can be established"},
	{code(selfcheck.CodeLinkTextLost), 1, "text from the server is lost on the way"},
	{code(selfcheck.CodeLinkTextDelayed), 1, "text came late"},
	{code(selfcheck.CodeLinkTextAltered), 1, "text is changed on the way"},
	{code(selfcheck.CodeLinkStuckFragment), 1, "a message was begun and never finished"},
	{code(selfcheck.CodeLinkTextSilent), 1, "pings go through, text does not"},
	{code(selfcheck.CodeLinkUplinkLost), 1, "text to the server is lost on the way"},
	{code(selfcheck.CodeLinkPingForeign), 1, "something on the way answers in the server's place"},
	{code(selfcheck.CodeLinkFlapping), 1, "links keep dropping"},
	{code(selfcheck.CodeLinkQuarantined), 1, "an operator has quarantined it"},
	{code(selfcheck.CodeRouteStale), 1, "the server holds commands and does not use this link"},
	{code(selfcheck.CodeRouteDuplicate), 1, "two machines use this identity"},
	{code(selfcheck.CodeRouteUnwritten), 1, "the server holds messages and does not write them"},
	{code(selfcheck.CodeAgentDecode), 1, "messages arrive whole and can't be read"},
	{code(selfcheck.CodeAgentRejected), 1, "messages are refused"},
	{code(selfcheck.CodeAgentStalled) + ".reader", 1, "the reader stands still"},
	{code(selfcheck.CodeAgentStalled) + ".dispatcher", 1, "the dispatcher stands still"},
	{code(selfcheck.CodeAgentStalled) + ".writer", 1, "the writer stands still"},
	{code(selfcheck.CodeAgentStalled) + ".executor", 1, "the executor stands still"},
	{code(selfcheck.CodeAgentStalled) + ".metrics", 1, "the machine's figures can't be read"},
	{code(selfcheck.CodeAgentExecutorFull), 1, "all places for jobs are taken"},
	{code(selfcheck.CodeAgentHung), 1, "the worker does not report"},
	{code(selfcheck.CodeAgentCrashloop), 1, "the worker keeps exiting"},
	{code(selfcheck.CodeAgentRemoved), 1, "the server has removed it"},
	{code(selfcheck.CodeAgentJournal), 1, "its journal can't be written"},
	{code(selfcheck.CodeOOBUnreachable), 1, "the second door can't be reached"},
	{code(selfcheck.CodeOOBRejected), 1, "the second door refuses it"},
}

func code(c selfcheck.Code) string { return string(c) }

// observedAs finds a row of the vocabulary, or nil.
func observedAs(id string) *observed { return tables().observed[id] }

// option finds a value, or nil.
func (o *observed) option(value string) *option {
	for i := range o.values {
		if o.values[i].value == value {
			return &o.values[i]
		}
	}
	return nil
}

// usual is the share of value where nothing bears on it; 0 if there is no such value.
func (o *observed) usual(value string) float64 {
	v, sum := 0.0, 0.0
	for _, p := range o.values {
		sum += p.usual
		if p.value == value {
			v = p.usual
		}
	}
	return v / sum
}

// Term is one row of the vocabulary, for those who write cases.
type Term struct {
	ID       string      `json:"observation"`
	Question string      `json:"question"` // of those with the same, only the strongest count
	Asks     string      `json:"asks"`
	SeenBy   string      `json:"seen_by"`
	Values   []TermValue `json:"values"`
}

// TermValue is a value and how often it is so where nothing bears on it.
type TermValue struct {
	Value string  `json:"value"`
	Means string  `json:"means"`
	Usual float64 `json:"usual"`
}

// Vocabulary is all that can be observed, in the order of a command's way.
func Vocabulary() []Term {
	var out []Term
	for _, o := range vocabulary {
		t := Term{ID: o.id, Question: o.question, Asks: o.asks, SeenBy: o.seenBy}
		for _, v := range o.values {
			t.Values = append(t.Values, TermValue{v.value, v.means, round(o.usual(v.value))})
		}
		out = append(out, t)
	}
	return out
}
