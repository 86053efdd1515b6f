package dossier

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"gururmm/diagnosis"
	"gururmm/internal/wrap"
	"gururmm/selfcheck"
)

// names puts neutral words in place of what tells whose system it is, the same word for the
// same thing each time. Secrets and the texts of commands are taken out whatever it keeps.
type names struct {
	keep    bool
	known   map[string][]known // by their first word, in small letters
	given   map[string]string  // in small letters
	out     map[string]bool    // the words given out
	count   map[string]int     // by kind
	scripts []string           // lines, flat, each once, the longest first
}

// known is a name in small letters, and the word that stands for it.
type known struct{ name, word string }

func newNames(keep bool) *names {
	return &names{keep: keep, known: map[string][]known{}, given: map[string]string{}, out: map[string]bool{}, count: map[string]int{}}
}

// small is s with small letters, each byte in its place.
func small(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// sane is s in valid UTF-8: it may be an endpoint's.
func sane(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func inWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_' }

// firstWord is the word that s begins with.
func firstWord(s string) string {
	if i := strings.IndexFunc(s, func(r rune) bool { return !inWord(r) }); i >= 0 {
		return s[:i]
	}
	return s
}

// plain are words of our own sentences: as a name they tell nothing, and to replace them there
// would make the sentences wrong.
var plain = []string{"agent", "server", "guardian", "worker", "link", "text", "ping", "pong", "path", "proxy", "box", "host", "command", "door", "poll", "beacon", "first", "none", "default"}

// of gives the neutral word for what is named so, as a whole.
func (n *names) of(kind, real string) string {
	if real = sane(real); n.keep || real == "" || n.neutral(real) {
		return real
	}
	if word := n.given[small(real)]; word != "" {
		return word
	}
	n.count[kind]++
	word := kind + "-" + strconv.Itoa(n.count[kind])
	if kind == "agent" && n.count[kind] <= 26 {
		word = "agent-" + string(rune('a'+n.count[kind]-1))
	}
	n.as(real, word)
	return word
}

// as says which word stands for a name.
func (n *names) as(real, word string) {
	if real = sane(real); n.keep || real == "" {
		return
	}
	name := small(real)
	n.given[name], n.out[word] = word, true
	if name = strings.TrimFunc(name, func(r rune) bool { return !inWord(r) }); len(name) < 2 || slices.Contains(plain, name) {
		return
	}
	first := firstWord(name)
	n.known[first] = append(n.known[first], known{name, word})
}

// replaced gives s with each known name, as a whole word, replaced: the longest that fits.
func (n *names) replaced(s string) string {
	low, out, begins := small(s), strings.Builder{}, true
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if begins && inWord(r) {
			best := known{}
			for _, k := range n.known[firstWord(low[i:])] {
				if after, fits := strings.CutPrefix(low[i:], k.name); fits && len(k.name) > len(best.name) && !beginsInWord(after) {
					best = k
				}
			}
			if best.name != "" {
				out.WriteString(best.word)
				i, begins = i+len(best.name), false
				continue
			}
		}
		begins = !inWord(r)
		out.WriteString(s[i : i+size])
		i += size
	}
	return out.String()
}

func beginsInWord(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return s != "" && inWord(r)
}

// script takes the text of a command out of all texts.
func (n *names) script(s string) {
	for line := range strings.Lines(s) {
		if len(strings.TrimSpace(line)) <= 3 {
			continue
		}
		line = secrets.ReplaceAllString(flat(line), "[secret]") // as text does before it looks
		i, known := slices.BinarySearchFunc(n.scripts, line, func(a, b string) int { return cmp.Or(len(b)-len(a), cmp.Compare(a, b)) })
		if !known && line != "" && line != "[secret]" {
			n.scripts = slices.Insert(n.scripts, i, line)
		}
	}
}

// flat is s in one line, with single spaces and nothing that a terminal would obey.
func flat(s string) string { return strings.Join(strings.Fields(wrap.Plain(sane(s))), " ") }

var (
	secrets  = regexp.MustCompile(`\b(gr[a-z]_[A-Za-z0-9]{8,}|eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]+)*|(?i:bearer|password|passwd|token|secret)[=: ]+[^\s,;]{6,})`)
	urls     = regexp.MustCompile(`\b([a-z][a-z0-9+.-]*://)([^\s/"'<>,;]+)`)
	accounts = regexp.MustCompile(`\b[A-Za-z0-9._-]+@[A-Za-z0-9.-]+`)
	homes    = regexp.MustCompile(`(?i)((?:/home/|/Users/|\\Users\\))([^\s/\\:"']+)`)
	paths    = regexp.MustCompile(`(^|[\s"'(=])((?:/[^\s"'():,;/]+){2,}/?|[A-Za-z]:\\[^\s"'(),;]+)`)
	common   = regexp.MustCompile(`(?i)^(/v1/|/var/lib/gururmm|/etc/gururmm|/run/gururmm|/usr/|/proc/|/dev/|[A-Z]:\\ProgramData\\gururmm|[A-Z]:\\Program Files\\)`)
	shares   = regexp.MustCompile(`\\\\([A-Za-z0-9._-]+)`)
	lookups  = regexp.MustCompile(`\b(lookup |host |hostname )([A-Za-z0-9_-][A-Za-z0-9._-]*)`)
	macs     = regexp.MustCompile(`\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b`)
	fours    = regexp.MustCompile(`\b\d{1,3}(?:\.\d{1,3}){3}\b`)
	sixes    = regexp.MustCompile(`[0-9A-Fa-f]*:[0-9A-Fa-f:.]*[0-9A-Fa-f:](?:%\w+)?`)
	ids      = regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)
	hosts    = regexp.MustCompile(`\b(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}\b`)
	files    = regexp.MustCompile(`\.(go|log|json|yaml|db|exe|crt|key|conf|txt|md|sh|ps1)$`)
)

// ours are the words with points in them that are codes of ours.
var ours = func() map[string]bool {
	out := map[string]bool{}
	for _, t := range diagnosis.Vocabulary() {
		out[t.ID] = true
		for _, v := range t.Values {
			out[v.Value] = true
		}
	}
	for _, c := range []selfcheck.Code{
		selfcheck.FindClockSkew, selfcheck.FindPingsRewritten, selfcheck.FindSuspendResumed, selfcheck.FindClockStep, selfcheck.FindRefused,
		selfcheck.FindJournal, selfcheck.FindQuarantined, selfcheck.FindDiskFull, selfcheck.FindRenewed, selfcheck.FindUpdateRolledBack, selfcheck.FindIsolated,
	} {
		out[string(c)] = true
	}
	return out
}()

// text gives what somebody wrote, with neutral words.
func (n *names) text(s string) string {
	s = secrets.ReplaceAllString(flat(s), "[secret]")
	for _, script := range n.scripts {
		s = strings.ReplaceAll(s, script, "[command text]")
	}
	if n.keep {
		return s
	}
	s = n.replaced(s)
	part := func(re *regexp.Regexp, kind string) {
		s = re.ReplaceAllStringFunc(s, func(all string) string {
			m := re.FindStringSubmatch(all)
			if n.neutral(m[2]) {
				return all
			}
			return m[1] + n.of(kind, m[2])
		})
	}
	whole := func(re *regexp.Regexp, kind string, is func(string) bool) {
		s = re.ReplaceAllStringFunc(s, func(all string) string {
			if n.neutral(all) || is != nil && !is(all) {
				return all
			}
			return n.of(kind, all)
		})
	}
	s = urls.ReplaceAllStringFunc(s, func(all string) string {
		m := urls.FindStringSubmatch(all)
		host, port := m[2], ""
		if i := strings.LastIndexByte(host, ':'); i > 0 && !strings.HasSuffix(host, "]") {
			host, port = host[:i], host[i:]
		}
		return m[1] + n.of("host", host) + port
	})
	whole(accounts, "user", nil)
	s = paths.ReplaceAllStringFunc(s, func(all string) string {
		m := paths.FindStringSubmatch(all)
		if common.MatchString(m[2]) {
			return all
		}
		return m[1] + n.of("path", m[2])
	})
	part(homes, "user")
	s = shares.ReplaceAllStringFunc(s, func(all string) string { return `\\` + n.of("host", all[2:]) })
	part(lookups, "host")
	whole(macs, "device", nil)
	whole(fours, "address", nil)
	whole(sixes, "address", func(a string) bool {
		_, err := netip.ParseAddr(a)
		return err == nil
	})
	whole(ids, "id", nil)
	whole(hosts, "host", func(h string) bool { return !ours[strings.ToLower(h)] && !files.MatchString(h) })
	return s
}

var neutral = regexp.MustCompile(`^(agent|site|tag|host|path|address|operator|user|device|id|command|order|instance|boot|machine)-[a-z0-9]+(:\d+)?$`)

// neutral reports whether a word is one of those given out.
func (n *names) neutral(s string) bool {
	word, _, _ := strings.Cut(s, ":")
	return neutral.MatchString(s) && n.out[word]
}

// said tells what was replaced, for the head of the page.
func (n *names) said() string {
	if n.keep {
		return "Names of machines, sites and people and addresses are as they are (it was asked for so)."
	}
	of := map[string]int{}
	for w := range n.out {
		of[w[:strings.LastIndexByte(w, '-')]]++
	}
	var parts []string
	for _, kind := range []string{"agent", "host", "site", "tag", "path", "address", "device", "operator", "user", "instance", "boot", "machine", "command", "order", "id"} {
		if of[kind] > 0 {
			parts = append(parts, fmt.Sprintf("%s (%d)", kind, of[kind]))
		}
	}
	return "Names and addresses are replaced, the same by the same word each time: " + strings.Join(parts, ", ") + "."
}
