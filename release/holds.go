package release

import (
	"bytes"
	"io"

	"gururmm/wire"
)

// HoldsVersion tells whether a program holds version as the linker writes what the build
// was told to be (-X): as a string of its own, that ends with a zero byte. One that does
// not hold it would say another. It reads [wire.MaxBuild] bytes at most; the error is that
// of program.
func HoldsVersion(program io.ReaderAt, version string) (bool, error) {
	want := append([]byte(version), 0)
	r := io.NewSectionReader(program, 0, wire.MaxBuild)
	buf := make([]byte, 256<<10)
	kept := 0 // of the part before: a string may lie across two
	for {
		n, err := io.ReadFull(r, buf[kept:])
		if bytes.Contains(buf[:kept+n], want) {
			return true, nil
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return false, nil
		default:
			return false, err
		}
		kept = copy(buf, buf[len(buf)-len(want)+1:])
	}
}
