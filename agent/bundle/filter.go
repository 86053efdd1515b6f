package bundle

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// redacted stands where something was taken out.
const redacted = "[redacted]"

// filter is the second net: it takes known secrets, and text of the shapes that
// secrets have, out of all that goes in. The first net are the sources' types.
//
// A filter never changes: what it is to know is read before any text is.
type filter struct {
	known []string // the longest first: one may be a part of another
	// strict: not all secrets are known, so whatever is as long as a key goes.
	strict bool
}

// keys are private keys in PEM (RFC 7468), over many lines; their end is perhaps cut
// off, newlines are perhaps escaped.
var keys = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`)

// shapes are what other secrets look like; group 1, if there is one, stays. Each
// match has one of hints in its first line, and is over after two more.
var shapes = []*regexp.Regexp{
	regexp.MustCompile(`eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.?[A-Za-z0-9_-]*`),                   // JWT (RFC 7519)
	regexp.MustCompile(`\bgr[eo]_[A-Za-z0-9]{8,}`),                                                   // our tokens
	regexp.MustCompile(`\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk-|AKIA)[A-Za-z0-9_-]{12,}`), // others' tokens
	regexp.MustCompile(`(?i)(\b(?:bearer|basic|negotiate|digest)\s+)[A-Za-z0-9._~+/=-]{8,}`),         // RFC 9110 §11.4
	regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^/\s"'\\@]*@`),                                  // user information (RFC 3986 §3.2.1)
	regexp.MustCompile(`[A-Za-z0-9+/]{86}==`),                                                        // 64 bytes: an Ed25519 private key
	// name=value and "name":"value"; a number or a nested value is none.
	regexp.MustCompile(`(?i)((?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|private[_-]?key|authorization|cookie|credential)s?\\?["']?\s*[=:]\s*\\?["']?)[^\s"'\\,;&}{\]\[]{3,}`),
}

// hints are what of the shapes can be looked for fast, in lower case. The last two
// are the letters beyond ASCII that a (?i) takes for s and k.
var hints = []string{
	"eyj", "gre_", "gro_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "sk-", "akia",
	"bearer", "basic", "negotiate", "digest", "@", "==",
	"pass", "secret", "token", "key", "authorization", "cookie", "credential", "\u017f", "\u212a",
}

// number keeps what the last shape must not touch: names that count or time something.
var number = regexp.MustCompile(`^(?:[0-9.]+|true|false|null)$`)

// long is what a key could be, in base64 or hex, where the keys are not known. Our ids
// have 36 characters.
var long = regexp.MustCompile(`[A-Za-z0-9+/_=-]{40,}`)

// newFilter knows secrets, and the forms that they take in URLs and JSON. Next to
// nothing is no secret: it would be found everywhere.
func newFilter(secrets []string, strict bool) *filter {
	f := &filter{strict: strict}
	for _, s := range secrets {
		if len(s) < 4 {
			continue
		}
		f.known = append(f.known, s, url.QueryEscape(s), url.PathEscape(s))
		if raw, err := json.Marshal(s); err == nil {
			f.known = append(f.known, string(raw[1:len(raw)-1]))
		}
	}
	slices.SortFunc(f.known, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	f.known = slices.Compact(f.known)
	return f
}

// text filters data, and tells how much was taken out.
func (f *filter) text(data []byte) ([]byte, int) {
	n := 0
	for _, s := range f.known {
		if c := bytes.Count(data, []byte(s)); c > 0 {
			n += c
			data = bytes.ReplaceAll(data, []byte(s), []byte(redacted))
		}
	}
	data = replace(keys, data, &n)
	if f.strict {
		data = replace(long, data, &n)
	}
	spans := suspects(data)
	if len(spans) == 0 {
		return data, n
	}
	out := make([]byte, 0, len(data))
	done := 0
	for _, s := range spans {
		out = append(out, data[done:s.from]...)
		suspect := data[s.from:s.to]
		for _, shape := range shapes {
			suspect = replace(shape, suspect, &n)
		}
		out, done = append(out, suspect...), s.to
	}
	return append(out, data[done:]...), n
}

// replace takes what has this shape out of data, and counts it in n.
func replace(shape *regexp.Regexp, data []byte, n *int) []byte {
	return shape.ReplaceAllFunc(data, func(match []byte) []byte {
		keep := shape.FindSubmatch(match)
		var prefix []byte
		if len(keep) > 1 {
			prefix = keep[1]
		}
		rest := match[len(prefix):]
		if number.Match(rest) || string(rest) == redacted || string(rest) == redacted+"@" {
			return match
		}
		*n++
		out := append(bytes.Clone(prefix), redacted...)
		if bytes.HasSuffix(prefix, []byte("://")) {
			out = append(out, '@')
		}
		return out
	})
}

// span is a part of a text, in bytes.
type span struct{ from, to int }

// suspects gives the lines of data in which one of the shapes could be found, each
// with the two next that are not empty: a value may stand below its name. Without
// it megabytes of harmless log would cost an endpoint seconds of its processor.
func suspects(data []byte) []span {
	lower := bytes.Clone(data)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' { // not bytes.ToLower, which may change lengths
			lower[i] = c + 'a' - 'A'
		}
	}
	var all []span
	for _, hint := range hints {
		for from := 0; ; {
			i := bytes.Index(lower[from:], []byte(hint))
			if i < 0 {
				break
			}
			begin := bytes.LastIndexByte(lower[:from+i], '\n') + 1
			from = linesEnd(lower, from+i, 3)
			all = append(all, span{begin, from})
		}
	}
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	merged := all[:0]
	for _, s := range all {
		if last := len(merged) - 1; last >= 0 && s.from <= merged[last].to {
			merged[last].to = max(merged[last].to, s.to)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// linesEnd is where the line at i ends, or that of the n-th from it on, counting only what is not blank.
func linesEnd(data []byte, i, n int) int {
	for n > 0 && i < len(data) {
		end := bytes.IndexByte(data[i:], '\n')
		if end < 0 {
			return len(data)
		}
		if len(bytes.TrimSpace(data[i:i+end])) > 0 {
			n--
		}
		i += end + 1
	}
	return i
}

// word filters one string.
func (f *filter) word(s string) string {
	out, _ := f.text([]byte(s))
	return string(out)
}

// json encodes v with every string in it filtered, names too.
func (f *filter) json(v any) (data []byte, n int, err error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, 0, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber() // 64-bit numbers stay as they are
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, 0, err
	}
	tree = f.walk(tree, "", &n)
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err = enc.Encode(tree)
	return out.Bytes(), n, err
}

// secretName is a name whose value is none of anybody's business.
var secretName = regexp.MustCompile(`(?i)pass(?:word|wd|phrase)|secret|private_?key|authorization|^token$|cookie`)

func (f *filter) walk(v any, name string, n *int) any {
	switch v := v.(type) {
	case string:
		if v != "" && secretName.MatchString(name) {
			*n++
			return redacted
		}
		out, c := f.text([]byte(v))
		*n += c
		return string(out)
	case []any:
		for i := range v {
			v[i] = f.walk(v[i], name, n)
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			key, c := f.text([]byte(k))
			*n += c
			out[string(key)] = f.walk(e, k, n)
		}
		return out
	}
	return v
}
