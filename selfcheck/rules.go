package selfcheck

import "time"

// remedy is what the ladder may do about a proven verdict.
type remedy uint8

const (
	remedyNone   remedy = iota // nothing an endpoint does by itself would help
	remedyLink                 // a fresh link, another way, then the second door
	remedyDoor                 // the second door; the link's own back-off dials
	remedyWorker               // start the loop again, or the worker
	remedyStage                // start the loop again; the worker is not worth it
	remedyWait                 // it is started again anyway, ever more rarely
)

// rule is one row of the table.
type rule struct {
	code     Code
	severity Severity // when proven; a suspicion is at most a warning
	title    string
	// grace is how long the sign must last before it is proof; zero: it is proof
	// at once, or the rule computes it (round trips).
	grace time.Duration
	// masks are the symptoms this explains, by code or family. A suspicion hides
	// only suspicions.
	masks  []Code
	remedy remedy
	action string // what a human would do
	// family: a suffix names the part (agent.stalled.reader).
	family bool
	// unreported: holds without any report of the worker.
	unreported bool
	look       func(f *facts, r *rule) *hit
}

// Graces with their reasons. Those that depend on the round trip are computed by
// [facts.grace].
const (
	hungGrace    = 2 * ReportEvery              // asked two seconds ago, and silent still
	hungSuspect  = ReportMissed + time.Second/2 // asked, and no answer yet: to be told, not to be acted upon
	stalledGrace = 5 * time.Second              // no loop may take so long over one thing: handlers run elsewhere
	// writerGrace: a loop in a write may rightly wait for the network as long as its own
	// deadline of 10 s; only then can it be said that the agent is what stands still.
	writerGrace   = 15 * time.Second
	metricsGrace  = 8 * time.Second // reading figures takes a moment, more on a busy disk
	fragmentGrace = 5 * time.Second // without a byte: no path pauses so long inside a message
	silentGrace   = 5 * time.Second // the least wait for a heartbeat's answer
	silentTrips   = 8
	askAgain      = 2 * time.Second // so that the second question is answered within that too
	staleGrace    = 8 * time.Second // longer than the server's claim (5 s) and its re-offer
	staleTrips    = 10
	viewGrace     = time.Second      // what was written when the server answered has come by now
	foreignGrace  = 5 * time.Second  // pings rewritten and no text: not yet even an auth_ack
	returnGrace   = 15 * time.Second // the server takes 10 s to find an older link of a returning agent dead
	delayedShown  = time.Minute      // how long a delay that is over is told of
	messageFresh  = time.Minute      // how long a refused message is the verdict: the sender repeats what matters
	messageShown  = 10 * time.Minute // how long it is told of, as a finding from then on
	rewrittenBeat = 10 * time.Second // heartbeat interval where pings are rewritten
	viewFresh     = time.Minute      // how long the server's view counts as the present
	resumedShown  = 15 * time.Minute
	skewLimit     = 5 * time.Second // certificates, tokens and expiries bear so much
)

// diskLow, in bytes, is what one command may write: both streams at their most.
const diskLow = 2 * 64 << 20

// Limits within ten minutes.
const (
	crashLimit = 4 // a worker that dies once or twice may have been killed
	flapLimit  = 3
	doorLimit  = 2 // in a row: one failed request says nothing
)

// rules, deepest cause first: where two of the same severity hold, the upper one shows.
var rules = []rule{
	{
		code: CodeAgentCrashloop, severity: SeverityError, unreported: true, remedy: remedyWait,
		title: "The worker keeps exiting", look: lookCrashloop,
		masks:  []Code{"agent", "link", "route"},
		action: "Read the worker's last exit and log; roll back the last update or free what it lacks (disk, memory, files).",
	},
	{
		code: CodeAgentHung, severity: SeverityError, unreported: true, grace: hungGrace, remedy: remedyWorker,
		title: "The worker does not report", look: lookHung,
		masks:  []Code{"agent", "link", "route"}, // all its facts are stale
		action: "None: the worker is started again. If it recurs, send the stacks from the bundle to the developers.",
	},
	{
		code: CodeAgentStalled + "." + loopMetrics, severity: SeverityWarning, grace: metricsGrace, remedy: remedyStage,
		title: "The machine's figures can't be read", look: lookMetrics,
		action: "Look for what they wait for, such as a dead network drive.",
	},
	{
		code: CodeAgentStalled, severity: SeverityError, grace: stalledGrace, remedy: remedyWorker, family: true,
		title: "A loop of the worker stands still", look: lookStalled,
		action: "None: the loop is started again, then the worker. If it recurs, send the stacks from the bundle to the developers.",
	},
	{
		code: CodeRouteDuplicate, severity: SeverityError, grace: returnGrace,
		title: "Two machines use this identity", look: lookDuplicate,
		masks:  []Code{CodeRouteStale, CodeRouteUnwritten}, // commands wait on purpose
		action: "Find the copy (a cloned disk, most often) by the machines that gururmm agents show names, and say which one keeps the identity: gururmm agents resolve.",
	},
	{
		code: CodeAgentRemoved, severity: SeverityError, remedy: remedyNone,
		title: "The server has removed this agent", look: lookRemoved,
		masks:  []Code{"link", "route", "oob"}, // it is let in nowhere, on purpose
		action: "Enroll it again (gururmm-agent enroll --force …), or take it off this machine (gururmm-agent uninstall).",
	},
	{
		code: CodeLinkQuarantined, severity: SeverityWarning, remedy: remedyDoor, // which stays open to it
		title: "An operator has quarantined this endpoint", look: lookIsolated,
		masks:  []Code{"link"}, // it has none, on purpose
		action: "Nothing to do here: an operator lifts it with gururmm agents quarantine AGENT --lift",
	},
	{
		code: CodeLinkTextAltered, severity: SeverityError, remedy: remedyLink,
		title: "Text is changed on the way", look: lookAltered,
		masks:  []Code{CodeAgentDecode, CodeAgentRejected, CodeLinkTextLost, CodeLinkTextDelayed},
		action: "Look for what inspects or rewrites traffic between this machine and the server (proxy, TLS inspection).",
	},
	{
		code: CodeLinkStuckFragment, severity: SeverityError, grace: fragmentGrace, remedy: remedyLink,
		title: "A message was begun and never finished", look: lookStuckFragment,
		masks:  []Code{CodeLinkTextLost, CodeLinkTextDelayed, CodeLinkTextSilent, CodeRouteStale, CodeLinkPingForeign},
		action: "Look for a proxy on the path that splits WebSocket messages.",
	},
	{
		code: CodeLinkTextLost, severity: SeverityError, remedy: remedyLink,
		title: "Text from the server is lost on the way", look: lookTextLost,
		masks:  []Code{CodeLinkTextDelayed, CodeLinkTextSilent, CodeLinkPingForeign, CodeRouteStale, CodeRouteUnwritten, CodeLinkHandshake, CodeLinkConnecting, CodeLinkFlapping},
		action: "Look for a proxy or inspection on the path that passes control frames and drops text.",
	},
	{
		code: CodeLinkUplinkLost, severity: SeverityError, remedy: remedyLink,
		title: "Text to the server is lost on the way", look: lookUplinkLost,
		masks:  []Code{CodeLinkTextDelayed, CodeLinkTextSilent, CodeLinkPingForeign, CodeRouteStale, CodeLinkHandshake, CodeLinkConnecting, CodeLinkFlapping},
		action: "Look for a proxy or inspection on the path that passes control frames and drops text.",
	},
	{
		code: CodeRouteUnwritten, severity: SeverityError, grace: viewGrace, remedy: remedyLink,
		title: "The server holds messages for this link and does not write them", look: lookUnwritten,
		masks:  []Code{CodeRouteStale, CodeLinkTextSilent, CodeLinkSilent, CodeLinkPingForeign, CodeLinkTextDelayed},
		action: "Look at the server: its writer for this link stands still.",
	},
	{
		code: CodeLinkPingForeign, severity: SeverityError, grace: foreignGrace, remedy: remedyLink,
		title: "Something on the way answers in the server's place", look: lookPingForeign,
		masks:  []Code{CodeLinkTextSilent, CodeLinkTextDelayed, CodeLinkHandshake, CodeLinkConnecting, CodeLinkFlapping, CodeRouteStale},
		action: "Look for a proxy that keeps WebSockets alive by itself while its upstream is gone.",
	},
	{
		code: CodeLinkTextSilent, severity: SeverityError, remedy: remedyLink,
		title: "Pings go through, text does not", look: lookTextSilent,
		masks:  []Code{CodeLinkTextDelayed, CodeRouteStale},
		action: "Look for a proxy on the path that rewrites pings; the server's view tells whether text is lost.",
	},
	{
		code: CodeLinkSilent, severity: SeverityError, remedy: remedyDoor,
		title: "Nothing comes over the link", look: lookSilent,
		masks:  []Code{CodeLinkTextSilent, CodeLinkTextDelayed, CodeLinkConnecting, CodeRouteStale, CodeLinkFlapping},
		action: "Check the network between this machine and the server; the link is dialed again by itself.",
	},
	{
		code: CodeLinkHandshake, severity: SeverityError, remedy: remedyDoor,
		title: "No link can be established", look: lookHandshake,
		masks:  []Code{CodeLinkConnecting, CodeLinkFlapping},
		action: "Act on the network error: name, route, firewall, certificate, or the server itself.",
	},
	{
		code: CodeRouteStale, severity: SeverityError, grace: staleGrace, remedy: remedyLink,
		title: "The server holds commands and does not use this link", look: lookStale,
		masks:  []Code{CodeLinkTextDelayed},
		action: "Look at the server: it does not offer what it owes. A fresh link makes it look again.",
	},
	{
		code: CodeAgentJournal, severity: SeverityError,
		title: "Commands are refused: their journal can't be written", look: lookJournal,
		action: "Free the disk or make the state directory writable: no command runs until then.",
	},
	{
		code: CodeAgentDecode, severity: SeverityError,
		title: "Messages arrive whole and can't be read", look: lookDecode,
		masks:  []Code{CodeAgentRejected},
		action: "Compare the versions of agent and server; update the older one.",
	},
	{
		code: CodeAgentRejected, severity: SeverityWarning,
		title: "Messages are refused", look: lookRejected,
		action: "Read the nack's code: a signature or agent that does not fit means a wrong key, a replay or a box on the way.",
	},
	{
		code: CodeLinkFlapping, severity: SeverityWarning,
		title: "Links keep dropping", look: lookFlapping,
		masks:  []Code{CodeLinkConnecting},
		action: "Look for an idle limit or an unstable network on the path; the drops' errors are in the log.",
	},
	{
		code: CodeAgentExecutorFull, severity: SeverityWarning,
		title: "All places for jobs are taken", look: lookExecutorFull,
		action: "Cancel a job, or raise max_jobs in the policy.",
	},
	{
		code: CodeOOBRejected, severity: SeverityWarning,
		title: "The second door refuses this agent", look: lookDoorRejected,
		masks:  []Code{CodeOOBUnreachable},
		action: "Check that the agent is still enrolled, and its clock.",
	},
	{
		code: CodeOOBUnreachable, severity: SeverityWarning,
		title: "The second door can't be reached", look: lookDoorUnreachable,
		action: "Open the way to the out-of-band listener now, while the link is well.",
	},
	{
		code: CodeLinkTextDelayed, severity: SeverityNotice,
		title: "Text came late", look: lookDelayed,
		action: "None, unless it recurs: pings overtake text on this path.",
	},
	{
		code: CodeLinkConnecting, severity: SeverityNotice,
		title: "The link is being established", look: lookConnecting,
		action: "None: wait a moment.",
	},
	{
		code: CodeOK, severity: SeverityWell,
		title: "All is well", look: lookOK,
		action: "None.",
	},
	{
		code: CodeOKIdle, severity: SeverityWell,
		title: "All is well, nothing to say", look: lookIdle,
		action: "None.",
	},
}
