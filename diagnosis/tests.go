package diagnosis

import (
	"slices"
	"strings"
)

// Access is what is at hand for a test.
type Access string

// What may be at hand.
const (
	AtServer   Access = "server"   // its tools, logs and database
	AtDoor     Access = "door"     // the second door to the endpoint answers
	AtEndpoint Access = "endpoint" // a person at it, or another remote tool
	AtPath     Access = "path"     // those who run the boxes on the way
)

var accesses = []Access{AtServer, AtDoor, AtEndpoint, AtPath}

// costs in order: of tests that tell about as much, the cheapest is named.
const (
	reads    = iota // looks only
	inert           // sends what runs nothing
	sends           // sends a harmless command, or opens connections
	drops           // ends a link
	restarts        // restarts a process of one endpoint
	fetches         // needs somebody at the place
	shakes          // concerns all endpoints
)

var costWords = []string{
	reads: "looks only; safe", inert: "sends texts that run nothing; safe", sends: "sends something harmless; safe", drops: "ends one link, which comes back; safe",
	restarts: "restarts the agent of one endpoint; jobs that run are interrupted", fetches: "needs somebody at the place; changes nothing", shakes: "concerns all endpoints",
}

// trial is one test: it measures one observation.
type trial struct {
	id, measures string
	cost         int
	needs        []Access // any of them
	how          string   // in a sentence, for any system of this kind
	run          []string // commands here; each first word is a program
}

var trials = []trial{
	{"trace", "stage.written", reads, []Access{AtServer}, "Read the command's trace: was it given to the connection to its last byte?", []string{"gururmm trace COMMAND"}},
	{"pongs", "pong.up", reads, []Access{AtServer}, "Count, at the server, the pongs that come back on this link, and their age. Each server gets them already; many throw them away.", []string{"gururmm agents show AGENT"}},
	{"frames", "ping.down", reads, []Access{AtDoor, AtEndpoint}, "Read at the agent how many pings it has read on this link, and when the last one came.", []string{"gururmm beacons AGENT --json", "gururmm-agent status"}},
	{"ledgers", "ledger.down", reads, []Access{AtDoor, AtEndpoint}, "Compare what the server wrote on this link with what the agent read.", []string{"gururmm agents show AGENT", "gururmm-agent status"}},
	{"link ids", "route", reads, []Access{AtServer}, "Compare the id of the link that the command was written to with that of the link that heartbeats come by.", []string{"gururmm trace COMMAND", "gururmm agents show AGENT"}},
	{"links", "links", reads, []Access{AtServer}, "Count the links, and the sockets, that the server holds for this identity.", []string{"gururmm agents show AGENT"}},
	{"instances", "instances", reads, []Access{AtServer}, "Compare the instances, boots and machines that called with this identity.", []string{"gururmm agents show AGENT"}},
	{"queue", "server.queue", reads, []Access{AtServer}, "Look at what waits in the link's queue, twice.", []string{"gururmm agents show AGENT --json"}},
	{"writer", "server.writer", reads, []Access{AtServer}, "Look at the server's goroutines: is one in a write for minutes?", []string{"curl http://ADMIN/debug/pprof/goroutine?debug=2"}},
	{"policy", "verified", reads, []Access{AtServer}, "See whether the agent has confirmed its policy on this link; that the server wrote it says nothing.", []string{"gururmm agents show AGENT"}},
	{"read", "stage.read", reads, []Access{AtDoor, AtEndpoint}, "See whether the agent has read the command, by its own account.", []string{"gururmm trace COMMAND", "gururmm beacons AGENT --json"}},
	{"loops", "agent.loop", reads, []Access{AtDoor, AtEndpoint}, "See which loop of the agent leaves its token; dump its stacks.", []string{"gururmm beacons AGENT --json", "gururmm direct AGENT send_bundle"}},
	{"places", "agent.slots", reads, []Access{AtDoor, AtEndpoint}, "Compare the jobs that hold the executor's places with those that run.", []string{"gururmm beacons AGENT --json", "gururmm-agent status"}},
	{"nacks", "refused", reads, []Access{AtServer, AtEndpoint}, "Look for refusals of the agent, and what it logged of messages that it could not read.", []string{"gururmm trace COMMAND", "gururmm-agent events"}},
	{"row", "server.state", reads, []Access{AtServer}, "Compare the command's row with what the nodes hold: state, claim, owner, times.", []string{"gururmm commands --agent AGENT --json"}},
	{"links since the start", "reconnected", reads, []Access{AtServer}, "Over the fleet, compare who runs commands with who has made a new link since its process started.", []string{"gururmm events AGENT", "gururmm commands --agent AGENT"}},
	{"neighbours", "site", reads, []Access{AtServer}, "Look at the other agents of the same site, and run a harmless command on one.", []string{"gururmm agents --site SITE"}},
	{"versions", "version.peers", reads, []Access{AtServer}, "Over the fleet, compare who runs commands by version.", []string{"gururmm agents"}},
	{"fleet", "fleet", reads, []Access{AtServer}, "Look at the rest of the fleet.", []string{"gururmm agents"}},
	{"past", "history", reads, []Access{AtServer}, "List the commands that did run there, against its starts and its links.", []string{"gururmm commands --agent AGENT", "gururmm events AGENT"}},
	{"changes", "change", reads, []Access{AtServer, AtPath, AtEndpoint}, "Ask what changed before: versions, network, security products, copies of machines.", []string{"gururmm events AGENT"}},
	{"sizes", "sizes", inert, []Access{AtServer}, "Send inert texts of a ladder of sizes down the way of commands: which are lost?", []string{probes}},
	{"probes", "probes", inert, []Access{AtServer, AtDoor, AtEndpoint}, "Send inert texts of a ladder of sizes: down the way of commands, or by links that the endpoint opens for it.", []string{probes, "gururmm doctor AGENT --only echo", "gururmm-agent doctor --only echo"}},
	{"count", "lost.which", sends, []Access{AtServer}, "On a fresh link send five harmless commands one after another: which are lost?", []string{"gururmm exec AGENT -- hostname"}},
	{"certificate", "tls.issuer", sends, []Access{AtDoor, AtEndpoint}, "See who signed the certificate that the endpoint is shown.", []string{"gururmm doctor AGENT --only tls", "gururmm-agent doctor --only tls"}},
	{"clock", "clock", sends, []Access{AtServer, AtDoor, AtEndpoint}, "Compare the endpoint's clock with the server's.", []string{"gururmm agents show AGENT", "gururmm doctor AGENT --only clock"}},
	{"disk", "agent.disk", sends, []Access{AtDoor, AtEndpoint}, "See whether the state directory can be written.", []string{"gururmm doctor AGENT --only disk"}},
	{"way", "handshake", sends, []Access{AtDoor, AtEndpoint}, "Have the endpoint try each step of the way to the server.", []string{"gururmm doctor AGENT --only dns,tcp,tls,upgrade", "gururmm-agent doctor"}},
	{"second door", "door", sends, []Access{AtDoor}, "Send the same harmless command by the second door.", []string{"gururmm direct AGENT poll", "gururmm exec AGENT -- hostname"}},
	{"trace left behind", "stage.started", sends, []Access{AtServer, AtEndpoint}, "Send a command whose effect is seen without its result, such as a request to a web server whose log you read: does it run unacknowledged?", []string{"gururmm exec AGENT -- curl -s https://SERVER/was-here"}},
	{"one alone", "cleared", sends, []Access{AtServer}, "Cancel all that waits for it, then try one harmless command alone.", []string{"gururmm commands --agent AGENT", "gururmm cancel COMMAND"}},
	{"fresh link", "fresh_link", drops, []Access{AtServer, AtDoor, AtEndpoint}, "Have it make a fresh link, and try a harmless command twice.", []string{"gururmm direct AGENT reconnect", "gururmm exec AGENT -- hostname"}},
	{"restart", "restart.agent", restarts, []Access{AtDoor, AtEndpoint}, "Restart the agent's process, then run a harmless command twice, and again after a reconnect.", []string{"gururmm direct AGENT restart_worker", "gururmm exec AGENT -- hostname"}},
	{"capture at the server", "capture.server", reads, []Access{AtServer}, "Capture at the server's last hop while a command of a known size is sent: TLS hides the text, not its length and time.", []string{"tcpdump -i any -nn -w server.pcap 'tcp port 8443'"}},
	{"capture at the endpoint", "capture.agent", fetches, []Access{AtEndpoint}, "Capture at the endpoint while a command of a known size is sent: is there a record of that length then, is it acknowledged, is the window open?", []string{"tcpdump -i any -nn -w agent.pcap 'tcp port 8443'", "pktmon start --capture"}},
	{"another way", "other_path", fetches, []Access{AtEndpoint, AtPath}, "Let the endpoint come by another network, or straight to the origin.", []string{"gururmm direct AGENT use_endpoint --endpoint URL"}},
	{"server restart", "restart.server", shakes, []Access{AtServer}, "Restart the server's process, and try a harmless command.", nil},
}

// probes is the command that sends inert texts of a ladder of sizes.
const probes = "gururmm probe AGENT"

// Probes reports whether a test is made by sending inert texts down the way of commands,
// which a program may do by itself: it runs nothing at the endpoint, and where none is lost it
// leaves all as it was.
func (t Test) Probes() bool {
	i := slices.IndexFunc(trials, func(known trial) bool { return known.id == t.ID })
	return i >= 0 && len(trials[i].run) > 0 && trials[i].run[0] == probes
}

// of writes the agent's name into a test's command lines, where a shell takes it as one word.
func (t Test) of(agents []Agent) Test {
	if len(agents) != 1 || strings.IndexFunc(agents[0].Name, unsafe) >= 0 || agents[0].Name == "" || agents[0].Name[0] == '-' {
		return t
	}
	t.Run = slices.Clone(t.Run)
	for i, line := range t.Run {
		t.Run[i] = strings.ReplaceAll(line, " AGENT", " "+agents[0].Name)
	}
	return t
}

func unsafe(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
}

// Tests are all that are known, without what they would tell.
func Tests() []Test {
	var out []Test
	for _, t := range trials {
		out = append(out, t.test())
	}
	return out
}

func (t trial) test() Test {
	return Test{ID: t.id, Measures: t.measures, Asks: observedAs(t.measures).asks, How: t.how, Run: t.run, Cost: costWords[t.cost], Needs: t.needs}
}
