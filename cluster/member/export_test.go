package member

// Kill ends the member as a power cut would: nobody is told, nothing handed
// over. Close must follow.
func (m *Member) Kill() {
	m.fate.closing.Store(true)
	m.closeOnce.Do(func() { close(m.closing) })
	for _, p := range m.etcd.Peers {
		p.Close()
	}
	m.etcd.Server.HardStop()
}
