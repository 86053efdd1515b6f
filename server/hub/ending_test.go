package hub

import (
	"errors"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"gururmm/selfcheck"
)

func TestEndingIsPutInWords(t *testing.T) {
	for _, c := range []struct {
		cause      error
		verdict    selfcheck.Code
		held       time.Duration
		why, proof string
		said       selfcheck.Code
	}{
		{errors.New("read: connection reset by peer"), "", 0, "read: connection reset by peer", "", ""},
		{&websocket.CloseError{Code: 1006, Text: "unexpected EOF"}, "", 0, "cut off without a closing frame", "", ""},
		{&websocket.CloseError{Code: 1001}, "", 0, "the agent closed it (code 1001)", "", ""},
		{&websocket.CloseError{Code: 1012, Text: "reconnect ordered: agent.hung: it hangs"}, "", 0, "the agent closed it: reconnect ordered: agent.hung: it hangs", "", ""},
		{&websocket.CloseError{Code: 1012, Text: "reconnect ordered: link.uplink.lost: 9 read"}, "", 0, "the agent closed it: reconnect ordered: link.uplink.lost: 9 read", "", selfcheck.CodeLinkUplinkLost},
		{&websocket.CloseError{Code: 1011, Text: "link.silent: no frame came: none for 4s"}, "", 0, "the agent closed it: link.silent: no frame came: none for 4s", "", selfcheck.CodeLinkSilent},
		{errDead, selfcheck.CodeLinkSilent, 0, "link.silent: " + errDead.Error(), "", ""},
		{errDead, selfcheck.CodeLinkSilent, 200 * time.Millisecond, "link.silent: " + errDead.Error(), "", ""},
		{
			errUnwritten, selfcheck.CodeRouteUnwritten, 5 * time.Second,
			"the server had kept a text back for 5s; route.unwritten: a queued text was not written within 5 s", "", selfcheck.CodeRouteUnwritten,
		},
		{
			&websocket.CloseError{Code: 1011, Text: "link.silent: no frame came: none for 4s"}, "", 3200 * time.Millisecond,
			"the server had kept a text back for 3.2s; the agent closed it: link.silent: no frame came: none for 4s", "", selfcheck.CodeRouteUnwritten,
		},
		{
			&websocket.CloseError{Code: 1012, Text: "reconnect ordered: link.text.lost: 9 written, 8 read: 1 missing"}, "", 0,
			"the agent closed it: reconnect ordered: link.text.lost: 9 written, 8 read: 1 missing",
			"the agent says link.text.lost: 9 written, 8 read: 1 missing", selfcheck.CodeLinkTextLost,
		},
	} {
		if why, said, proof := ending(c.cause, c.verdict, c.held); why != c.why || said != c.said || proof != c.proof {
			t.Errorf("%v: %q, %q, %q; want %q, %q, %q", c.cause, why, said, proof, c.why, c.said, c.proof)
		}
	}
}

func TestTheVerdictNearerToTheCauseStands(t *testing.T) {
	const lost, up, silent, kept = selfcheck.CodeLinkTextLost, selfcheck.CodeLinkUplinkLost, selfcheck.CodeLinkSilent, selfcheck.CodeRouteUnwritten
	for _, c := range []struct{ before, said, want selfcheck.Code }{
		{"", "", ""}, {"", silent, silent}, {silent, "", silent}, {silent, kept, kept}, {kept, silent, kept},
		{lost, kept, lost}, {kept, up, up}, {lost, silent, lost}, {lost, up, up},
	} {
		if got := nearer(c.before, c.said); got != c.want {
			t.Errorf("%q, then %q: %q, want %q", c.before, c.said, got, c.want)
		}
	}
}
