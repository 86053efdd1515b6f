package guardian_test

import (
	"bufio"
	"net"
	"net/http"
	"os"
	"runtime"
	"syscall"
	"testing"
)

// whoMayAsk opens the socket to all accounts, and asks as one that is neither root
// nor ours. Only root can become another, so elsewhere there is nothing to ask as.
func whoMayAsk(t *testing.T, dir, socket string) {
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/stacks": 403, "/trace?ms=10": 403, "/status": 200} {
		conn := dialAs(t, 65534, socket)
		req, err := http.NewRequest(http.MethodGet, "http://guardian"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Close = true
		if err := req.Write(conn); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != want {
			t.Errorf("GET %s by another account: %s, want %d", path, resp.Status, want)
		}
		conn.Close()
	}
}

// dialAs connects from a thread that has become another account, and ends with it.
func dialAs(t *testing.T, uid uintptr, socket string) net.Conn {
	t.Helper()
	type dialed struct {
		conn net.Conn
		err  error
	}
	got := make(chan dialed)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uid, uid, uid); errno != 0 {
			got <- dialed{nil, errno}
			return
		}
		conn, err := net.Dial("unix", socket)
		got <- dialed{conn, err}
	}()
	d := <-got
	if d.err != nil {
		t.Fatal(d.err)
	}
	return d.conn
}
