package pid1

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"

	"joist/api/node"
)

// listen opens the control socket; only root may connect.
func (s *system) listen(context.Context) error {
	os.Remove(node.InitSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: node.InitSocket, Net: "unix"})
	if err != nil {
		return err
	}
	if err := os.Chmod(node.InitSocket, 0o600); err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	return nil
}

// serve answers requests of one connection, a line of JSON each.
func (s *system) serve(c net.Conn) {
	defer c.Close()
	sc := bufio.NewScanner(c)
	sc.Buffer(nil, 64<<10)
	for {
		c.SetDeadline(time.Now().Add(time.Minute))
		if !sc.Scan() {
			return
		}
		var req node.InitRequest
		reply := node.InitReply{}
		if err := json.Unmarshal(sc.Bytes(), &req); err != nil {
			reply.Error = fmt.Sprintf("read request: %v", err)
		} else {
			reply = s.answer(req)
		}
		b, err := json.Marshal(reply)
		if err != nil {
			return
		}
		if _, err := c.Write(append(b, '\n')); err != nil {
			return
		}
	}
}

func (s *system) answer(req node.InitRequest) node.InitReply {
	var err error
	switch req.Verb {
	case "status":
		return node.InitReply{OK: true, Services: s.sup.Status(), Phases: s.board.Phases()}
	case "reboot":
		s.end <- ending{why: "asked to restart"}
	case "poweroff":
		s.end <- ending{off: true, why: "asked to switch off"}
	case "start":
		err = named(req.Name, s.sup.Start)
	case "stop":
		err = named(req.Name, s.sup.Stop)
	case "restart":
		err = named(req.Name, s.sup.Restart)
	default:
		err = fmt.Errorf("unknown verb %q: use status, start, stop, restart, reboot or poweroff", req.Verb)
	}
	if err != nil {
		return node.InitReply{Error: err.Error()}
	}
	return node.InitReply{OK: true}
}

// named guards against a request without name, which would mean all services.
func named(name string, f func(...string) error) error {
	if name == "" {
		return fmt.Errorf("a service's name is missing")
	}
	return f(name)
}

// Ask sends one request to PID 1; it is what programs beside it call.
func Ask(req node.InitRequest) (node.InitReply, error) {
	var reply node.InitReply
	c, err := net.DialTimeout("unix", node.InitSocket, 5*time.Second)
	if err != nil {
		return reply, fmt.Errorf("reach PID 1: %w", err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if err := json.NewEncoder(c).Encode(req); err != nil {
		return reply, fmt.Errorf("ask PID 1: %w", err)
	}
	if err := json.NewDecoder(c).Decode(&reply); err != nil {
		return reply, fmt.Errorf("read PID 1's answer: %w", err)
	}
	if !reply.OK {
		return reply, fmt.Errorf("PID 1: %s", reply.Error)
	}
	return reply, nil
}
