package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLedgerRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		want := Ledger{
			Link: LinkID(rng.Uint64()), Written: rng.Uint64(), WrittenBytes: rng.Uint64(), Read: rng.Uint64(),
			WrittenCRC: rng.Uint32(), ReadCRC: rng.Uint32(), Owed: rng.Uint32(),
			ClockMicros: rng.Int64(), Answer: rng.IntN(2) == 0,
		}
		raw := want.AppendTo(nil)
		if len(raw) != LedgerSize || len(raw) > 125 {
			t.Fatalf("%d bytes", len(raw))
		}
		got, err := ParseLedger(raw)
		if err != nil || got != want {
			t.Fatalf("got %+v, %v; want %+v", got, err, want)
		}
	}
}

func TestAbsentLedgerIsUnknownNotZero(t *testing.T) {
	good := Ledger{Link: 1}.AppendTo(nil)
	otherVersion := slices.Clone(good)
	otherVersion[2]++
	for name, raw := range map[string][]byte{
		"empty": nil, "short": good[:55], "long": append(slices.Clone(good), 0),
		"foreign": []byte("keepalive"), "zeros": make([]byte, LedgerSize), "other version": otherVersion,
	} {
		if _, err := ParseLedger(raw); !errors.Is(err, ErrNoLedger) {
			t.Errorf("%s: err = %v", name, err)
		}
	}
}

func TestChainIsTheChecksumOfTheConcatenation(t *testing.T) {
	if Chain(Chain(0, []byte("hello, ")), []byte("world")) != Chain(0, []byte("hello, world")) {
		t.Fatal("chained digest differs from that of the whole")
	}
	// Known answer of CRC-32C for "123456789" (RFC 3720 B.4 polynomial).
	if got := Chain(0, []byte("123456789")); got != 0xe3069283 {
		t.Fatalf("CRC-32C = %08x", got)
	}
}

func newKey(t testing.TB) (ed25519.PrivateKey, Keyring) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := NewKeyring(pub)
	if err != nil {
		t.Fatal(err)
	}
	return key, ring
}

func TestSignatureSurvivesTheLinkAndCoversTypeAndBytes(t *testing.T) {
	key, ring := newKey(t)
	env, err := Sign(key, TypeCommand, Command{ID: "1", Agent: "a", Script: "echo '<&>' \u2028"})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := env.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Verify(got); err != nil {
		t.Fatalf("after the link: %v", err)
	}

	_, strangers := newKey(t)
	otherType, altered, unsigned := got, got, got
	otherType.Type = TypeProbe
	altered.Payload = bytes.Replace(got.Payload, []byte("echo"), []byte("edho"), 1)
	unsigned.Sig = nil
	for name, check := range map[string]error{
		"other type": ring.Verify(otherType), "altered": ring.Verify(altered),
		"unsigned": ring.Verify(unsigned), "other key": strangers.Verify(got),
	} {
		if !errors.Is(check, ErrBadSignature) {
			t.Errorf("%s: %v", name, check)
		}
	}
}

// corpus is the protocol's memory: messages that were thought of, and what Decode says.
var corpus = []struct {
	name, text string
	want       error
}{
	{"heartbeat", `{"type":"heartbeat","seq":3,"payload":{"ledger":{"link":"0000000000000007"}}}`, nil},
	{"unknown type is an envelope", `{"type":"from_the_future","payload":{}}`, nil},
	{"unknown field is ignored", `{"type":"auth","payload":{},"extra":1}`, nil},
	{"empty", ``, ErrUnparseable},
	{"not JSON", `hello`, ErrUnparseable},
	{"array", `[]`, ErrUnparseable},
	{"no type", `{"payload":{}}`, ErrUnparseable},
	{"no payload", `{"type":"auth"}`, ErrUnparseable},
	{"null payload", `{"type":"auth","payload":null}`, ErrUnparseable},
	{"checksum fits", `{"type":"auth","seq":3,"crc":"2885df1c","payload":{"a":1}}`, nil},
	{"checksum does not fit", `{"type":"auth","seq":3,"crc":"2885df1c","payload":{"a":2}}`, ErrUnparseable},
	{"negative seq", `{"type":"auth","seq":-1,"payload":{}}`, ErrUnparseable},
	{"two values", `{"type":"auth","payload":{}}{}`, ErrUnparseable},
	{"bad base64", `{"type":"auth","sig":"!","payload":{}}`, ErrUnparseable},
	{"cut", `{"type":"auth","payload":{`, ErrUnparseable},
	{"deep nesting", `{"type":"auth","payload":` + strings.Repeat("[", 20000) + `}`, ErrUnparseable},
	{"oversized", `{"type":"auth","payload":"` + strings.Repeat("x", MaxMessage) + `"}`, ErrTooLarge},
}

func TestDecodeCorpus(t *testing.T) {
	for _, c := range corpus {
		_, err := Decode([]byte(c.text))
		if !errors.Is(err, c.want) || (c.want == nil && err != nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// One damaged byte never reaches a handler as something else.
func TestDamageIsNoticed(t *testing.T) {
	env, err := Seal(TypeCommandResult, CommandResult{ID: "1", State: StateCompleted, Stdout: []byte("<42>")})
	if err != nil {
		t.Fatal(err)
	}
	env.Seq = 12
	raw, err := env.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(raw); err != nil || got.Seq != 12 {
		t.Fatalf("undamaged: %+v, %v", got, err)
	}
	for i := range raw {
		damaged := bytes.Clone(raw)
		damaged[i] ^= 1
		got, err := Decode(damaged)
		if err == nil && (got.Type != env.Type || got.Seq != env.Seq || !bytes.Equal(got.Payload, env.Payload)) {
			t.Errorf("byte %d changed to %q: accepted as %s", i, damaged[i], damaged)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range corpus {
		if len(c.text) < 1000 {
			f.Add([]byte(c.text))
		}
	}
	key, ring := newKey(f)
	signed, err := Sign(key, TypeCommand, Command{ID: "1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		env, err := Decode(text)
		if err != nil {
			return
		}
		if env.Sig != nil && !bytes.Equal(env.Sig, signed.Sig) && ring.Verify(env) == nil {
			t.Fatalf("a made-up signature verifies: %q", text)
		}
		if raw, err := env.Encode(); err == nil {
			if again, err := Decode(raw); err != nil || again.Type != env.Type {
				t.Fatalf("re-encoded %q does not decode: %v", raw, err)
			}
		}
		_, _ = DecodePayload[Command](env) // must not panic
		_, _ = DecodePayload[Heartbeat](env)
	})
}

func FuzzParseLedger(f *testing.F) {
	f.Add(Ledger{Link: 3, Written: 9}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if l, err := ParseLedger(raw); err == nil {
			again, err := ParseLedger(l.AppendTo(nil))
			if err != nil || again != l {
				t.Fatalf("%+v does not survive: %+v %v", l, again, err)
			}
		}
	})
}

func TestEncodeRefusesOversize(t *testing.T) {
	env, err := Seal(TypeEcho, Echo{Pad: strings.Repeat("x", MaxMessage)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := env.Encode(); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("err = %v", err)
	}
}

func TestIDsAreOrderedAndWellFormed(t *testing.T) {
	last := ""
	for i := range 3 {
		id := NewID()
		if len(id) != 36 || id[14] != '7' || !strings.ContainsRune("89ab", rune(id[19])) {
			t.Fatalf("%s is not a UUIDv7", id)
		}
		if i > 0 && id[:13] < last[:13] {
			t.Fatalf("%s after %s", id, last)
		}
		last = id
	}
	link := NewLinkID()
	raw, err := json.Marshal(link)
	if err != nil {
		t.Fatal(err)
	}
	var back LinkID
	if err := json.Unmarshal(raw, &back); err != nil || back != link || link == 0 {
		t.Fatalf("%s → %v, %v", raw, back, err)
	}
}

func TestPolicyDefaultsAreValidAndKillersAreRefused(t *testing.T) {
	if err := DefaultPolicy().Validate(); err != nil {
		t.Fatalf("defaults: %v", err)
	}
	if got := (Policy{PingMS: 5000}).WithDefaults(); got.PingMS != 5000 || got.DeadMS != DefaultPolicy().DeadMS {
		t.Fatalf("defaults overwrite what was set: %+v", got)
	}
	for name, p := range map[string]Policy{
		"dead under ping":  {PingMS: 60_000, DeadMS: 30_000},
		"no pings":         {PingMS: int64(24 * time.Hour / time.Millisecond)},
		"negative":         {HeartbeatMS: -1},
		"back-off":         {BackoffMinMS: 10_000, BackoffMaxMS: 1000},
		"no jobs":          {MaxJobs: -1},
		"plain door":       {OOB: []OOBDoor{{URL: "http://127.0.0.1:8444"}}},
		"door with a path": {OOB: []OOBDoor{{URL: "https://rmm.example/x"}}},
		"no pin":           {OOB: []OOBDoor{{URL: "https://rmm.example", Pin: "sha256/AAAA"}}},
		"a broken pin":     {OOB: []OOBDoor{{URL: "https://rmm.example", Pin: "sha256/" + strings.Repeat("A", 20) + "\n" + strings.Repeat("A", 23) + "="}}},
		"nine doors":       {OOB: slices.Repeat([]OOBDoor{{URL: "https://rmm.example"}}, 9)},
		"a long door":      {OOB: []OOBDoor{{URL: "https://" + strings.Repeat("a", 2048)}}},
		"plain link":       {LinkURLs: []string{"ws://example.org/v1/link"}},
		"no host":          {LinkURLs: []string{"wss:///v1/link"}},
		"secret in URL":    {LinkURLs: []string{"wss://user:secret@example.org/v1/link"}},
	} {
		if err := p.WithDefaults().Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
