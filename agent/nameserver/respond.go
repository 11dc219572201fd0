package nameserver

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	headerSize     = 12
	answerSizeMin  = 16               // an address, its name compressed
	udpSizeMax     = 1232             // what passes every network unfragmented (DNS flag day 2020)
	negativeTTLMax = 5 * time.Second  // a service that is not there yet is looked for soon again
	staleAfter     = 20 * time.Second // silence of the store that answers tell of: a cut is made up for sooner
)

// respond returns the answer to one message, nil if there is to be none: to what is no question, and so to
// answers of other servers. It has no effect but on the counters.
func (s *Server) respond(packet []byte, from netip.Addr, udp bool) []byte {
	if len(packet) < headerSize || packet[2]&0x80 != 0 {
		s.counts.dropped.Add(1)
		return nil
	}
	question, rcode := read(packet)
	r := &reply{Msg: new(dns.Msg), server: s}
	size := dns.MaxMsgSize
	if udp {
		size = udpSize(question)
	}
	if rcode == dns.RcodeSuccess {
		r.SetReply(question)
		r.Compress = true
		r.max = size/answerSizeMin + 1
		r.fill(question, from)
	} else {
		r.Id, r.Opcode, r.RecursionDesired = question.Id, question.Opcode, question.RecursionDesired
		r.Response, r.Rcode = true, rcode
	}
	answer, err := fit(r.Msg, size)
	if err != nil { // a record that passed every check and cannot be packed
		s.cfg.Log.Error("an answer cannot be packed", "question", question.Question, "err", err)
		r.Msg = new(dns.Msg).SetRcode(question, dns.RcodeServerFailure)
		if answer, err = r.Pack(); err != nil {
			return nil
		}
	}
	s.counts.count(r.Msg)
	return answer
}

// read returns the question that a packet holds. If it is none that can be answered, it returns its header and
// what to say.
func read(packet []byte) (question *dns.Msg, rcode int) {
	question = new(dns.Msg)
	rcode = readable(packet)
	if rcode == dns.RcodeSuccess && question.Unpack(packet) == nil && len(question.Question) == 1 { // a packet may end early
		return question, rcode
	}
	question = new(dns.Msg)
	question.Id = binary.BigEndian.Uint16(packet)
	question.Opcode = int(packet[2]>>3) & 0xf
	question.RecursionDesired = packet[2]&1 != 0
	return question, cmp.Or(rcode, dns.RcodeFormatError)
}

// fill makes r the answer to a question.
func (r *reply) fill(question *dns.Msg, from netip.Addr) {
	if !r.server.allowed(from) { // nothing more than was asked: it may be meant for somebody else
		r.server.counts.disallowed.Add(1)
		r.Rcode = dns.RcodeRefused
		return
	}
	options, ok := edns(question)
	switch {
	case !ok:
		r.Rcode = dns.RcodeFormatError
	case options != nil && options.Version() != 0:
		r.SetEdns0(udpSizeMax, false)
		r.Rcode = dns.RcodeBadVers // the upper bits of which packing moves to the options
	default:
		if options != nil {
			r.SetEdns0(udpSizeMax, options.Do())
		}
		r.answer(question.Question[0])
	}
}

// readable returns success if the header of a packet is that of a question which this server understands.
func readable(packet []byte) int {
	count := func(i int) uint16 { return binary.BigEndian.Uint16(packet[4+2*i:]) }
	switch {
	case packet[2]>>3&0xf != dns.OpcodeQuery:
		return dns.RcodeNotImplemented
	case count(0) != 1 || count(1) != 0 || count(2) != 0 || count(3) > 2: // options and a signature
		return dns.RcodeFormatError
	}
	return dns.RcodeSuccess
}

// edns returns the options of a question, nil if it has none; false if it has them twice.
func edns(question *dns.Msg) (options *dns.OPT, ok bool) {
	for _, record := range question.Extra {
		if found, is := record.(*dns.OPT); is {
			if options != nil {
				return nil, false
			}
			options = found
		}
	}
	return options, true
}

// udpSize returns how large an answer over UDP may be.
func udpSize(question *dns.Msg) int {
	options, _ := edns(question)
	if options == nil {
		return dns.MinMsgSize
	}
	return min(max(int(options.UDPSize()), dns.MinMsgSize), udpSizeMax)
}

// fit packs a message into size bytes: first what nobody asked for is left out, then answers, of which it
// says so.
func fit(reply *dns.Msg, size int) ([]byte, error) {
	packed, err := reply.Pack()
	if err == nil && len(packed) <= size {
		return packed, nil
	}
	reply.Extra = slices.DeleteFunc(reply.Extra, func(r dns.RR) bool { return r.Header().Rrtype != dns.TypeOPT })
	reply.Truncate(size)
	reply.Compress = true
	packed, err = reply.Pack()
	if err == nil && len(packed) > size {
		err = fmt.Errorf("%d bytes, and %d is the most", len(packed), size)
	}
	return packed, err
}

// answer makes r what is known about q.
func (r *reply) answer(q dns.Question) {
	s := r.server
	switch {
	case q.Qclass != dns.ClassINET || !dns.IsSubDomain(s.domain, strings.ToLower(q.Name)):
		r.refuse(dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative, "only names in "+s.domain+" are known here")
		return
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		r.refuse(dns.RcodeRefused, dns.ExtendedErrorCodeNotSupported, "the zone is not transferred")
		return
	}
	state := s.cfg.Catalog.Mirror()
	age := s.cfg.Now().Sub(state.Since)
	switch {
	case !state.Complete:
		r.refuse(dns.RcodeServerFailure, dns.ExtendedErrorCodeNotReady, "the store was not read yet")
		return
	case state.Err != nil && s.cfg.StaleMax > 0 && age > s.cfg.StaleMax:
		r.refuse(dns.RcodeServerFailure, dns.ExtendedErrorCodeNoReachableAuthority, silence(age))
		return
	case state.Err != nil && age > staleAfter:
		r.explain(dns.ExtendedErrorCodeStaleAnswer, silence(age))
	}
	r.Authoritative = true
	r.serial = uint32(state.Index) // it only grows, and wraps as serials may
	exists, has := r.resolve(q)
	if !exists {
		r.Rcode = dns.RcodeNameError
	}
	if !has {
		r.Ns = append(r.Ns, s.soa(min(s.cfg.TTL, negativeTTLMax), r.serial))
	}
}

func silence(age time.Duration) string {
	return "the store was heard last " + age.Round(time.Second).String() + " ago"
}

func (r *reply) refuse(rcode int, code uint16, why string) {
	r.Rcode = rcode
	r.explain(code, why)
}

// explain tells who understands it (RFC 8914) why the answer is as it is.
func (r *reply) explain(code uint16, why string) {
	if options := r.IsEdns0(); options != nil {
		options.Option = append(options.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: why})
	}
}
