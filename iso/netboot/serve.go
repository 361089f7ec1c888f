package netboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/pin/tftp/v3"
	"golang.org/x/sync/errgroup"
)

// Server offers a folder. Whoever runs it opens the sockets.
type Server struct {
	Folder  *Folder
	Offers  Offers
	Answers *Answers                         // nil: none
	Say     func(format string, args ...any) // a line for each thing that a machine does
}

// Sockets are what a server listens on; nil ones are left out.
type Sockets struct {
	Web    net.Listener
	TFTP   net.PacketConn
	DHCP   net.PacketConn // port 67
	Direct net.PacketConn // port 4011
}

// Close closes those that are open.
func (s Sockets) Close() error {
	var errs []error
	for _, c := range []io.Closer{s.Web, s.TFTP, s.DHCP, s.Direct} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// Serve runs until ctx ends or a socket fails; it closes the sockets.
func (s *Server) Serve(ctx context.Context, at Sockets) error {
	g, ctx := errgroup.WithContext(ctx)
	web := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	t := tftp.NewServer(s.readTFTP, nil)
	t.SetTimeout(2 * time.Second)
	if _, real := at.TFTP.(*net.UDPConn); !real {
		t.EnableSinglePort() // there is no kernel to ask for further ports, or for an MTU
		t.SetBlockSizeNegotiation(false)
		t.SetBlockSize(1468) // of Ethernet
	}
	run := func(there bool, f func() error) {
		if there {
			g.Go(func() error {
				if err := f(); err != nil && ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
					return err
				}
				return nil
			})
		}
	}
	run(at.Web != nil, func() error { return web.Serve(at.Web) })
	run(at.TFTP != nil, func() error { return t.Serve(at.TFTP) })
	run(at.DHCP != nil, func() error { return s.dhcp(at.DHCP, false) })
	run(at.Direct != nil, func() error { return s.dhcp(at.Direct, true) })
	g.Go(func() error {
		<-ctx.Done()
		web.Close() // says what closing the listener says
		for _, c := range []net.PacketConn{at.DHCP, at.Direct} {
			if c != nil {
				c.Close()
			}
		}
		if at.TFTP != nil {
			t.Shutdown()
		}
		return nil
	})
	return g.Wait()
}

// Handler is the web server: the folder's files, and answers. It answers
// whatever spelling of a path without a redirection, which firmware does not
// follow: shim asks for //grubx64.efi.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.Answers != nil && path.Clean(r.URL.Path) == AnswerPath {
			s.Answers.serve(w, r, s.Say)
			return
		}
		s.getFile(w, r)
	})
}

func (s *Server) getFile(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	f, changed, err := s.Folder.open(r.URL.Path)
	if err != nil {
		s.Say("%s asked for %s by HTTP: it is not there", r.RemoteAddr, r.URL.Path)
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	name := path.Base(r.URL.Path)
	switch path.Ext(name) {
	case ".efi":
		w.Header().Set("Content-Type", "application/efi") // what UEFI 2.10, 24.7.2 asks for
	case ".ipxe", ".cfg", ".json":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	if r.Method == http.MethodGet {
		s.Say("%s fetches %s by HTTP", r.RemoteAddr, strings.TrimPrefix(r.URL.Path, "/"))
	}
	http.ServeContent(w, r, name, changed, f)
}

// readTFTP sends one file.
func (s *Server) readTFTP(name string, to io.ReaderFrom) error {
	peer := "a machine"
	out, ok := to.(tftp.OutgoingTransfer)
	if ok {
		a := out.RemoteAddr()
		peer = a.String()
	}
	f, _, err := s.Folder.open(name)
	if err != nil {
		s.Say("%s asked for %q by TFTP: it is not there", peer, name)
		return errors.New("file not found")
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil && ok {
		out.SetSize(size)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s.Say("%s fetches %q by TFTP", peer, name)
	_, err = to.ReadFrom(f)
	return err
}

// dhcp answers requests until the socket is closed.
func (s *Server) dhcp(c net.PacketConn, direct bool) error {
	buf := make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("wait for DHCP requests: %w", err)
		}
		req, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			continue // whatever it is, it is not for us
		}
		reply, text := s.Offers.Reply(req, direct)
		if text != "" {
			s.Say("%s", text)
		}
		if reply == nil {
			continue
		}
		if _, err := c.WriteTo(reply.ToBytes(), replyTo(req, from)); err != nil {
			s.Say("answer %s: %v", req.ClientHWAddr, err)
		}
	}
}
