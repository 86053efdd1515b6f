package release

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"gururmm/wire"
)

// ErrExecutable: a file is not an executable that can be recognised.
var ErrExecutable = errors.New("not a recognisable executable")

// Platform is an operating system and architecture in Go's names.
type Platform struct{ OS, Arch string }

func (p Platform) String() string { return p.OS + "/" + p.Arch }

// Inspect reads from a program's headers what it was built for: one platform, or
// several of a universal macOS program. The error wraps [ErrExecutable].
//
// An ELF header does not tell Linux from other systems that leave its ABI field
// empty; those that fill it in are recognised.
func Inspect(program io.ReaderAt) ([]Platform, error) {
	h := make(header, maxHeader)
	n, err := program.ReadAt(h, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", ErrExecutable, err)
	}
	h = h[:n]
	switch {
	case n < 4:
		return nil, fmt.Errorf("%w: it has not even four bytes", ErrExecutable)
	case string(h[:4]) == "\x7fELF":
		return h.elf()
	case string(h[:2]) == "MZ":
		return h.pe()
	case binary.BigEndian.Uint32(h) == machoFat:
		return h.fat(program)
	case binary.LittleEndian.Uint32(h) == macho64:
		return h.macho()
	case string(h[:2]) == "#!":
		return nil, fmt.Errorf("%w: it is a script", ErrExecutable)
	}
	return nil, fmt.Errorf("%w: it begins with % x", ErrExecutable, h[:4])
}

// CheckPlatform refuses a program that was not built for b's platform, whatever
// was written beside it. The error wraps [ErrExecutable] or [ErrMismatch].
func CheckPlatform(program io.ReaderAt, b wire.Build) error {
	found, err := Inspect(program)
	if err != nil {
		return err
	}
	for _, p := range found {
		if p.OS == b.OS && p.Arch == b.Arch {
			return nil
		}
	}
	return fmt.Errorf("%w: the file is a program for %v, offered for %s/%s", ErrMismatch, found, b.OS, b.Arch)
}

// maxHeader is where the headers of a program must have ended, in bytes.
const maxHeader = 4096

// header is the beginning of a file. The few fields that name the platform are read
// here: debug/elf, debug/pe and debug/macho, with the decompressors and symbol
// tables they bring, would be a thirtieth of the agent's program.
type header []byte

// field gives n bytes at offset at, or an error if the file has already ended.
func (h header) field(at, n uint32) ([]byte, error) {
	if uint64(at)+uint64(n) > uint64(len(h)) {
		return nil, fmt.Errorf("%w: its headers are cut off", ErrExecutable)
	}
	return h[at : at+n], nil
}

// elfSystems are the systems that name themselves in an ELF header's EI_OSABI, and
// the two values that leave it open.
var elfSystems = map[byte]string{0: "linux", 3: "linux", 2: "netbsd", 6: "solaris", 9: "freebsd", 12: "openbsd"}

// elfMachines are values of e_machine.
var elfMachines = map[uint16]string{3: "386", 21: "ppc64", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64"}

// elf reads the header of the System V ABI, chapter 4: EI_CLASS, EI_DATA and EI_OSABI
// at 4, 5 and 7, e_type at 16, e_machine at 18, e_phnum at 44 or 56.
func (h header) elf() ([]Platform, error) {
	raw, err := h.field(0, 64)
	if err != nil {
		return nil, err
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch raw[5] {
	case 1:
	case 2:
		order = binary.BigEndian
	default:
		return nil, fmt.Errorf("%w: ELF file of byte order %d", ErrExecutable, raw[5])
	}
	segments := order.Uint16(raw[56:])
	if raw[4] == 1 {
		segments = order.Uint16(raw[44:])
	}
	kind, machine, os := order.Uint16(raw[16:]), order.Uint16(raw[18:]), elfSystems[raw[7]]
	const program, shared = 2, 3 // ET_EXEC, ET_DYN: position-independent programs are the latter
	if kind != program && kind != shared || os == "" || segments == 0 || raw[4] != 1 && raw[4] != 2 {
		return nil, fmt.Errorf("%w: ELF file of type %d for system %d", ErrExecutable, kind, raw[7])
	}
	arch := elfMachines[machine]
	if arch == "" {
		return nil, fmt.Errorf("%w: ELF file for machine %d", ErrExecutable, machine)
	}
	if arch == "ppc64" && raw[5] == 1 {
		arch = "ppc64le"
	}
	return []Platform{{os, arch}}, nil
}

// peMachines are values of the COFF header's Machine.
var peMachines = map[uint16]string{0x14c: "386", 0x1c4: "arm", 0x8664: "amd64", 0xaa64: "arm64"}

// pe reads the headers of Microsoft's PE format: where the signature is, at 0x3c;
// behind it the COFF header with Machine at 0 and Characteristics at 18.
func (h header) pe() ([]Platform, error) {
	at, err := h.field(0x3c, 4)
	if err != nil {
		return nil, err
	}
	raw, err := h.field(binary.LittleEndian.Uint32(at), 24)
	if err != nil {
		return nil, err
	}
	const executable, dll = 0x0002, 0x2000
	flags, machine := binary.LittleEndian.Uint16(raw[22:]), binary.LittleEndian.Uint16(raw[4:])
	if string(raw[:4]) != "PE\x00\x00" || flags&executable == 0 || flags&dll != 0 {
		return nil, fmt.Errorf("%w: Windows file that is no program", ErrExecutable)
	}
	arch := peMachines[machine]
	if arch == "" {
		return nil, fmt.Errorf("%w: Windows program for machine %#x", ErrExecutable, machine)
	}
	return []Platform{{"windows", arch}}, nil
}

// Mach-O, as in Apple's mach-o/loader.h and mach-o/fat.h.
const (
	macho64  = 0xfeedfacf // little-endian
	machoFat = 0xcafebabe // big-endian: several programs in one file
	// maxFat bounds the programs of a fat file: a Java class file begins alike, with
	// its version, 45 and more, in that place.
	maxFat = 16
)

var machoCPUs = map[uint32]string{0x01000007: "amd64", 0x0100000c: "arm64"}

// macho reads cputype at 4 and filetype at 12.
func (h header) macho() ([]Platform, error) {
	raw, err := h.field(0, 16)
	if err != nil {
		return nil, err
	}
	const execute = 2 // MH_EXECUTE
	cpu, kind := binary.LittleEndian.Uint32(raw[4:]), binary.LittleEndian.Uint32(raw[12:])
	arch := machoCPUs[cpu]
	if binary.LittleEndian.Uint32(raw) != macho64 || arch == "" || kind != execute {
		return nil, fmt.Errorf("%w: macOS file of type %d for processor %#x", ErrExecutable, kind, cpu)
	}
	return []Platform{{"darwin", arch}}, nil
}

// fat reads the header of each program in a fat file: nfat_arch at 4, from 8 on an
// entry of 20 bytes each, with the program's offset at 8.
func (h header) fat(file io.ReaderAt) ([]Platform, error) {
	raw, err := h.field(4, 4)
	if err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(raw)
	if n == 0 || n > maxFat {
		return nil, fmt.Errorf("%w: fat file of %d programs", ErrExecutable, n)
	}
	var found []Platform
	for i := range n {
		entry, err := h.field(8+20*i, 20)
		if err != nil {
			return nil, err
		}
		one := make(header, 32)
		if _, err := file.ReadAt(one, int64(binary.BigEndian.Uint32(entry[8:]))); err != nil {
			return nil, fmt.Errorf("%w: program %d of a fat file: %w", ErrExecutable, i+1, err)
		}
		p, err := one.macho()
		if err != nil {
			return nil, err
		}
		found = append(found, p...)
	}
	return found, nil
}
