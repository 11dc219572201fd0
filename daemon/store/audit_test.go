package store

func audit(m *Machine) error { return m.Audit() }
