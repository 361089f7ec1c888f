package faults

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The network block device's protocol, fixed newstyle with simple replies
// (github.com/NetworkBlockDevice/nbd, doc/proto.md). All numbers are big endian.
const (
	magicGreeting = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption   = 0x49484156454f5054 // "IHAVEOPT"
	magicReply    = 0x3e889045565a9
	magicRequest  = 0x25609513
	magicSimple   = 0x67446698

	fixedNewstyle = 1 << 0 // handshake flags, of the server and of the client
	noZeroes      = 1 << 1

	optExportName = 1
	optAbort      = 2
	optList       = 3
	optInfo       = 6
	optGo         = 7

	repAck            = 1
	repServer         = 2
	repInfo           = 3
	repUnsupported    = 1<<31 + 1
	repInvalid        = 1<<31 + 3
	repUnknown        = 1<<31 + 6
	infoExport        = 0
	infoBlockSize     = 3
	maxOption         = 64 << 10
	minBlock          = 512
	maxRequest        = 32 << 20
	transmissionFlags = 1<<0 | 1<<2 | 1<<3 | 1<<5 | 1<<6 // flags are there, FLUSH, FUA, TRIM, WRITE_ZEROES

	cmdRead        = 0
	cmdWrite       = 1
	cmdDisconnect  = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6
	flagFUA        = 1 << 0
	flagNoHole     = 1 << 1

	errIO      = 5
	errInvalid = 22
	errNoSpace = 28
)

var be = binary.BigEndian

// errDone ends a connection in good order.
var errDone = errors.New("the client has said good-bye")

// session is one connection.
type session struct {
	d *Disk
	r *bufio.Reader
	w *bufio.Writer
}

// put writes numbers of fixed size and bytes.
func (s *session) put(values ...any) error {
	for _, v := range values {
		if err := binary.Write(s.w, be, v); err != nil {
			return err
		}
	}
	return nil
}

// negotiate ends with the client being told the size of the disk.
func (s *session) negotiate() error {
	if err := s.put(uint64(magicGreeting), uint64(magicOption), uint16(fixedNewstyle|noZeroes)); err != nil {
		return err
	}
	if err := s.w.Flush(); err != nil {
		return err
	}
	var flags uint32
	if err := binary.Read(s.r, be, &flags); err != nil {
		return err
	}
	if flags&^(fixedNewstyle|noZeroes) != 0 {
		return fmt.Errorf("negotiate: unknown flags %#x of the client", flags)
	}
	for {
		var o struct {
			Magic       uint64
			Option, Len uint32
		}
		if err := binary.Read(s.r, be, &o); err != nil {
			return err
		}
		if o.Magic != magicOption || o.Len > maxOption {
			return fmt.Errorf("negotiate: not an option: %+v", o)
		}
		data := make([]byte, o.Len)
		if _, err := io.ReadFull(s.r, data); err != nil {
			return err
		}
		ready, err := s.option(o.Option, data, flags&noZeroes != 0)
		if err == nil || errors.Is(err, errDone) {
			err = errors.Join(err, s.w.Flush())
		}
		if err != nil || ready {
			return err
		}
	}
}

// option answers one option; ready begins the transmission.
func (s *session) option(option uint32, data []byte, short bool) (ready bool, err error) {
	switch option {
	case optExportName: // the old way: no answer but the size
		if len(data) != 0 {
			return false, fmt.Errorf("negotiate: there is no export %q", data)
		}
		var padding []byte
		if !short {
			padding = make([]byte, 124)
		}
		return true, s.put(uint64(s.d.size), uint16(transmissionFlags), padding)
	case optAbort:
		return false, errors.Join(s.reply(option, repAck, nil), errDone)
	case optList:
		if len(data) != 0 {
			return false, s.reply(option, repInvalid, nil)
		}
		return false, errors.Join(s.reply(option, repServer, make([]byte, 4)), s.reply(option, repAck, nil)) // one, with the empty name
	case optInfo, optGo:
		if len(data) < 6 || uint64(be.Uint32(data))+6 > uint64(len(data)) {
			return false, s.reply(option, repInvalid, nil)
		}
		if be.Uint32(data) != 0 {
			return false, s.reply(option, repUnknown, nil)
		}
		export := be.AppendUint16(nil, infoExport)
		export = be.AppendUint64(export, uint64(s.d.size))
		export = be.AppendUint16(export, transmissionFlags)
		blocks := be.AppendUint16(nil, infoBlockSize)
		for _, n := range []uint32{minBlock, 4096, maxRequest} {
			blocks = be.AppendUint32(blocks, n)
		}
		return option == optGo, errors.Join(s.reply(option, repInfo, export), s.reply(option, repInfo, blocks), s.reply(option, repAck, nil))
	}
	return false, s.reply(option, repUnsupported, nil)
}

func (s *session) reply(option, kind uint32, data []byte) error {
	return s.put(uint64(magicReply), option, kind, uint32(len(data)), data)
}

// request is the head of one.
type request struct {
	Magic       uint32
	Flags, Type uint16
	Cookie      uint64
	Offset      uint64
	Length      uint32
}

// serve answers requests, one after the other, until the client leaves.
func (s *session) serve() error {
	var buf []byte
	for {
		var q request
		if err := binary.Read(s.r, be, &q); err != nil {
			return err
		}
		if q.Magic != magicRequest {
			return fmt.Errorf("serve: not a request: %+v", q)
		}
		if q.Type == cmdDisconnect {
			return errDone
		}
		b := buf[:0]
		if q.Type == cmdRead || q.Type == cmdWrite {
			if q.Length > maxRequest {
				return fmt.Errorf("serve: a request of %d bytes", q.Length)
			}
			if int(q.Length) > cap(buf) {
				buf = make([]byte, q.Length)
			}
			b = buf[:q.Length]
		}
		if q.Type == cmdWrite {
			if _, err := io.ReadFull(s.r, b); err != nil {
				return err
			}
		}
		code := s.do(q, b)
		if q.Type != cmdRead || code != 0 {
			b = nil
		}
		if err := s.put(uint32(magicSimple), code, q.Cookie, b); err != nil {
			return err
		}
		if err := s.w.Flush(); err != nil {
			return err
		}
	}
}

// do carries out one request and returns the error number of the protocol.
func (s *session) do(q request, b []byte) uint32 {
	off, length := int64(q.Offset), int64(q.Length)
	switch {
	case q.Flags&^(flagFUA|flagNoHole) != 0 || q.Flags&flagNoHole != 0 && q.Type != cmdWriteZeroes:
		return errInvalid
	case q.Type == cmdFlush:
		s.d.flush()
		return 0
	case off < 0 || off > s.d.size-length:
		if q.Type == cmdRead {
			return errInvalid
		}
		return errNoSpace
	case off%minBlock != 0 || length%minBlock != 0:
		return errInvalid
	}
	var err error
	switch q.Type {
	case cmdRead:
		_, err = s.d.ReadAt(b, off)
	case cmdWrite:
		err = s.d.write(b, off, q.Flags&flagFUA != 0)
	case cmdTrim, cmdWriteZeroes:
		err = s.d.zero(off, length, q.Flags&flagFUA != 0)
	default:
		return errInvalid
	}
	if err != nil {
		return errIO
	}
	return 0
}
