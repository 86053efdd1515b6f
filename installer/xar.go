package main

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"debug/macho"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// member is one file of an archive.
type member struct {
	name string // with / between folders
	mode fs.FileMode
	data []byte
}

// xar is an archive in Apple's format (the xar project's wiki, "xarformat"): a header, a table
// of contents in compressed XML, and a heap that begins with the table's own SHA-1. Members are
// not compressed again. folders come before what is in them.
func xar(members []member, when time.Time) ([]byte, error) {
	var heap, toc bytes.Buffer
	heap.Write(make([]byte, sha1.Size)) // the table's, once it is known
	stamp := when.UTC().Format("2006-01-02T15:04:05")
	toc.WriteString(xml.Header + "<xar>\n <toc>\n")
	fmt.Fprintf(&toc, "  <creation-time>%s</creation-time>\n  <checksum style=\"sha1\"><offset>0</offset><size>%d</size></checksum>\n", stamp, sha1.Size)
	var open []string // folders that are not closed yet
	leave := func(n int) {
		for ; len(open) > n; open = open[:len(open)-1] {
			toc.WriteString("  </file>\n")
		}
	}
	for i, m := range members {
		folders := strings.Split(m.name, "/")
		base := folders[len(folders)-1]
		folders = folders[:len(folders)-1]
		same := 0
		for same < len(folders) && same < len(open) && folders[same] == open[same] {
			same++
		}
		leave(same)
		if len(folders) != len(open) {
			return nil, fmt.Errorf("%s comes before its folder", m.name)
		}
		var name bytes.Buffer
		if err := xml.EscapeText(&name, []byte(base)); err != nil {
			return nil, err
		}
		kind := "file"
		if m.mode.IsDir() {
			kind = "directory"
		}
		fmt.Fprintf(&toc, "  <file id=\"%d\"><name>%s</name><type>%s</type><mode>%04o</mode><uid>0</uid><gid>0</gid><user>root</user><group>wheel</group><mtime>%sZ</mtime>\n",
			i+1, name.String(), kind, m.mode.Perm(), stamp)
		if m.mode.IsDir() {
			open = append(open, base)
			continue
		}
		sum := sha1.Sum(m.data)
		digest := hex.EncodeToString(sum[:])
		fmt.Fprintf(&toc, "   <data><offset>%d</offset><length>%[2]d</length><size>%[2]d</size><encoding style=\"application/octet-stream\"/>"+
			"<archived-checksum style=\"sha1\">%[3]s</archived-checksum><extracted-checksum style=\"sha1\">%[3]s</extracted-checksum></data>\n  </file>\n",
			heap.Len(), len(m.data), digest)
		heap.Write(m.data)
	}
	leave(0)
	toc.WriteString(" </toc>\n</xar>\n")
	var packed bytes.Buffer
	z, err := zlib.NewWriterLevel(&packed, zlib.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(toc.Bytes()); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, 28+packed.Len()+heap.Len()), "xar!"...)
	out = binary.BigEndian.AppendUint16(out, 28) // the header's size
	out = binary.BigEndian.AppendUint16(out, 1)  // the format's version
	out = binary.BigEndian.AppendUint64(out, uint64(packed.Len()))
	out = binary.BigEndian.AppendUint64(out, uint64(toc.Len()))
	out = binary.BigEndian.AppendUint32(out, 1) // SHA-1, the one that each reader knows; what is to be trusted is signed
	sum := sha1.Sum(packed.Bytes())
	out = append(out, packed.Bytes()...)
	copy(heap.Bytes(), sum[:])
	return append(out, heap.Bytes()...), nil
}

// cpio is an archive of old portable form, "odc" (cpio(5)): what Apple's installer takes.
// Owner is root, of group wheel.
func cpio(members []member, when time.Time) []byte {
	var b bytes.Buffer
	put := func(inode int, name string, mode uint32, links int, at int64, data []byte) {
		fmt.Fprintf(&b, "070707%06o%06o%06o%06o%06o%06o%06o%011o%06o%011o%s\x00", 0, inode, mode, 0, 0, links, 0, at, len(name)+1, len(data), name)
		b.Write(data)
	}
	for i, m := range members {
		put(i+1, m.name, unixMode(m.mode), 1, when.Unix(), m.data)
	}
	put(0, "TRAILER!!!", 0, 1, 0, nil)
	return b.Bytes()
}

// unixMode is mode as stat(2) has it.
func unixMode(mode fs.FileMode) uint32 {
	kind := uint32(0o100000)
	if mode.IsDir() {
		kind = 0o040000
	}
	return kind | uint32(mode.Perm())
}

// universal joins programs of several processors in one file (fat_header of mach-o/fat.h).
func universal(programs map[macho.Cpu][]byte, order []macho.Cpu) []byte {
	const align = 14 // 16 KiB, the page of arm64
	out := binary.BigEndian.AppendUint32(nil, macho.MagicFat)
	out = binary.BigEndian.AppendUint32(out, uint32(len(order)))
	at := uint32(1) << align
	var body []byte
	for _, cpu := range order {
		program := programs[cpu]
		subtype := uint32(0) // CPU_SUBTYPE_ARM64_ALL
		if cpu == macho.CpuAmd64 {
			subtype = 3 // CPU_SUBTYPE_X86_64_ALL
		}
		for _, field := range []uint32{uint32(cpu), subtype, at, uint32(len(program)), align} {
			out = binary.BigEndian.AppendUint32(out, field)
		}
		padded := (uint32(len(program)) + 1<<align - 1) &^ (1<<align - 1)
		body = append(body, program...)
		body = append(body, make([]byte, padded-uint32(len(program)))...)
		at += padded
	}
	out = append(out, make([]byte, 1<<align-len(out))...)
	return append(out, body...)
}
