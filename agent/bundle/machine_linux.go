package bundle

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// routes reads the main tables as proc(5) shows them.
func routes() ([]routeFacts, error) {
	var all []routeFacts
	v4, err4 := os.ReadFile("/proc/net/route")
	for i, line := range strings.Split(string(v4), "\n") {
		f := strings.Fields(line)
		if i == 0 || len(f) < 8 { // Iface Destination Gateway Flags RefCnt Use Metric Mask
			continue
		}
		to, ok1 := addr4(f[1])
		via, ok2 := addr4(f[2])
		mask, err := hex.DecodeString(f[7])
		if !ok1 || !ok2 || err != nil || len(mask) != 4 {
			continue
		}
		bits := 0
		for _, b := range mask {
			for ; b != 0; b &= b - 1 {
				bits++
			}
		}
		metric, _ := strconv.ParseUint(f[6], 10, 32)
		all = append(all, route(f[0], netip.PrefixFrom(to, bits), via, uint32(metric)))
	}
	v6, err6 := os.ReadFile("/proc/net/ipv6_route")
	for line := range strings.Lines(string(v6)) {
		f := strings.Fields(line) // destination, length, source, length, next hop, metric, …, interface
		if len(f) < 10 {
			continue
		}
		to, ok1 := addr6(f[0])
		bits, err := strconv.ParseUint(f[1], 16, 8)
		via, ok2 := addr6(f[4])
		metric, err2 := strconv.ParseUint(f[5], 16, 32)
		if !ok1 || !ok2 || errors.Join(err, err2) != nil || metric == 0xffffffff { // the kernel's own null route
			continue
		}
		all = append(all, route(f[9], netip.PrefixFrom(to, int(bits)), via, uint32(metric)))
	}
	if errors.Is(err6, os.ErrNotExist) { // no IPv6 here
		err6 = nil
	}
	if err := errors.Join(err4, err6); err != nil {
		return all, fmt.Errorf("routes: %w", err)
	}
	return all, nil
}

func route(dev string, to netip.Prefix, via netip.Addr, metric uint32) routeFacts {
	r := routeFacts{Interface: dev, To: to.String(), Metric: metric}
	if !via.IsUnspecified() {
		r.Via = via.String()
	}
	return r
}

// addr4 reads an address as proc(5) has it: hexadecimal, in the machine's byte order.
func addr4(s string) (netip.Addr, bool) {
	n, err := strconv.ParseUint(s, 16, 32)
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(n))
	return netip.AddrFrom4(b), err == nil
}

func addr6(s string) (netip.Addr, bool) {
	raw, err := hex.DecodeString(s)
	a, ok := netip.AddrFromSlice(raw)
	return a, err == nil && ok && len(raw) == 16
}

// nameservers are those of resolv.conf(5).
func nameservers() (servers []string) {
	raw, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" {
			servers = append(servers, f[1])
		}
	}
	return servers
}
