package tcpinfo

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxFiles bounds the open files of a process that are looked at.
	maxFiles = 4096
	// maxTable bounds what is read of the kernel's table of connections, in bytes:
	// 50,000 lines.
	maxTable = 8 << 20
)

// OfProcess asks about another process, and its established TCP connections,
// whether it turns or not: the kernel answers, the process is not asked. It takes
// the right to look at that process: the same user, or root.
func OfProcess(pid int) (Process, error) {
	root := fmt.Sprintf("/proc/%d/", pid)
	p := Process{State: processState(root + "stat")}
	inodes, err := sockets(root + "fd")
	if err != nil {
		return p, fmt.Errorf("connections of process %d: %w", pid, err)
	}
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		found, err := connections(root+table, inodes)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return p, fmt.Errorf("connections of process %d: %w", pid, err)
		}
		p.Queues = append(p.Queues, found...)
	}
	return p, nil
}

// StateOf gives the state of another process as the kernel's letter and in a word;
// both are "" if it is not known.
func StateOf(pid int) (letter, word string) {
	letter = processLetter(fmt.Sprintf("/proc/%d/stat", pid))
	return letter, stateWords[letter]
}

// processState reads the third field of /proc/PID/stat (proc_pid_stat(5)); "" if
// it can't be read.
func processState(path string) string { return stateWords[processLetter(path)] }

var stateWords = map[string]string{
	"R": "running", "S": "sleeping", "D": "waiting for the disk", "T": "stopped",
	"t": "stopped by a debugger", "Z": "dead, not yet collected", "X": "dead", "I": "idle",
}

// processLetter gives that field as it is. The one before is in parentheses and may
// hold any byte.
func processLetter(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(string(raw[max(0, strings.LastIndex(string(raw), ")")):]), ") ")
	if !ok || rest == "" {
		return ""
	}
	return rest[:1]
}

// sockets gives the inodes of the sockets that a process has open.
func sockets(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var inodes []string
	for _, name := range names {
		target, err := os.Readlink(dir + "/" + name)
		if err != nil {
			continue // closed meanwhile
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes = append(inodes, strings.TrimSuffix(inode, "]"))
		}
	}
	return inodes, nil
}

// connections reads /proc/PID/net/tcp (proc_pid_net(5)): the lines of those inodes,
// without listeners.
func connections(path string, inodes []string) ([]Queue, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []Queue
	lines := bufio.NewScanner(io.LimitReader(f, maxTable))
	lines.Scan() // the heading
	for lines.Scan() {
		// sl local rem st tx:rx tr:when retrnsmt uid timeout inode …
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || !slices.Contains(inodes, fields[9]) {
			continue
		}
		state, err := strconv.ParseUint(fields[3], 16, 8)
		tx, rx, ok := strings.Cut(fields[4], ":")
		unacked, terr := strconv.ParseUint(tx, 16, 32)
		unread, rerr := strconv.ParseUint(rx, 16, 32)
		name := nameOf(states, int(state))
		if err != nil || !ok || terr != nil || rerr != nil || name == "listen" {
			continue
		}
		found = append(found, Queue{Remote: endpoint(fields[2]), State: name, Unread: unread, Unacked: unacked})
	}
	return found, lines.Err()
}

// endpoint reads "0100007F:1F90": each four bytes of the address are written as
// one number of this machine's byte order, the port is big endian.
func endpoint(s string) string {
	addr, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(addr)
	n, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(raw)%4 != 0 {
		return ""
	}
	if littleEndian {
		for i := 0; i < len(raw); i += 4 {
			slices.Reverse(raw[i : i+4])
		}
	}
	ip, ok := netip.AddrFromSlice(raw)
	if !ok {
		return ""
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)).String()
}

// littleEndian: of this machine's numbers.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1
