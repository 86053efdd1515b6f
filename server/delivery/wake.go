package delivery

// Wake has the polls of an agent look again at whether anything is theirs.
func (s *Service) Wake(agent string) {
	if r := s.known(agent); r != nil {
		r.wake()
	}
}
