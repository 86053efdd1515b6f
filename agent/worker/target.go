package worker

import (
	"slices"

	"gururmm/agent/link"
)

// target is where a link is dialed: an endpoint, and perhaps one IP family only.
type target struct {
	url    string
	family link.Family
}

// alternatives lists where else the link could go than cur, which was reached
// over the family reached: the other endpoints in the order of preference,
// beginning behind cur, then the other IP family where the host has both.
func alternatives(urls []string, cur target, reached link.Family, v4, v6 bool) []target {
	var out []target
	at := slices.Index(urls, cur.url)
	for i := range urls {
		if u := urls[(at+1+i)%len(urls)]; u != cur.url {
			out = append(out, target{url: u})
		}
	}
	if v4 && v6 {
		other := link.IPv4
		if reached == link.IPv4 {
			other = link.IPv6
		}
		out = append(out, target{url: cur.url, family: other})
	}
	return out
}

// next gives the first of the alternatives that is not in tried; all tried: the first again.
func next(options []target, tried map[target]bool) (target, bool) {
	for _, t := range options {
		if !tried[t] {
			return t, true
		}
	}
	if len(options) == 0 {
		return target{}, false
	}
	return options[0], true
}

// afterFailure gives the target to try after cur could not be reached: the next
// endpoint, over any family.
func afterFailure(urls []string, cur target) target {
	if len(urls) == 0 {
		return target{url: cur.url}
	}
	return target{url: urls[(slices.Index(urls, cur.url)+1)%len(urls)]}
}
