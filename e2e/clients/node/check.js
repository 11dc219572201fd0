// What node-etcd does, at the server whose URL is given.
//
//	node check.js http://127.0.0.1:2379
//
// Prints what it does and ends with an error at the first wrong answer. Modules are found through
// NODE_PATH.
'use strict';
const Etcd = require('node-etcd');
const { isDeepStrictEqual, promisify } = require('util');

const url = process.argv[2];
const etcd = new Etcd([url]);
const call = (name, ...words) => promisify(etcd[name]).apply(etcd, words);

function fail(text) {
  console.log('FAILED: ' + text);
  process.exit(1);
}
function equal(what, got, want) {
  console.log(what, JSON.stringify(got));
  if (!isDeepStrictEqual(got, want)) fail(`${what}: expected ${JSON.stringify(want)}`);
}
async function refused(what, code, ...words) {
  try {
    const got = await call(...words);
    fail(`${what}: expected error ${code}, not ${JSON.stringify(got)}`);
  } catch (err) {
    equal(what, err.errorCode, code);
  }
}
const deadline = setTimeout(() => fail('no end after 60 seconds'), 60000);

// event resolves to the next event that emitter emits under name.
const event = (emitter, name) => new Promise((resolve) => emitter.once(name, resolve));

async function keys() {
  console.log('== keys');
  let body = await call('set', '/n/a', '1');
  equal('set', [body.action, body.node.key, body.node.value], ['set', '/n/a', '1']);
  body = await call('get', '/n/a');
  equal('get', body.node.value, '1');
  body = await call('set', 'n/a', 'ü <&> \u2028');
  equal('what was there', body.prevNode.value, '1');
  equal('get', (await call('get', 'n/a')).node.value, 'ü <&> \u2028');
  await refused('get of nothing', 100, 'get', 'n/none');
  equal('compareAndSwap', (await call('set', 'n/c', 'one'), await call('compareAndSwap', 'n/c', 'two', 'one')).action, 'compareAndSwap');
  await refused('testAndSet of another value', 101, 'testAndSet', 'n/c', 'three', 'one');
  equal('prevExist', (await call('set', 'n/c', 'four', { prevExist: true })).action, 'update');
  await refused('prevExist=false', 105, 'set', 'n/c', 'x', { prevExist: false });
  const index = (await call('get', 'n/c')).node.modifiedIndex;
  equal('prevIndex', (await call('set', 'n/c', 'five', { prevIndex: index })).action, 'compareAndSwap');
  await refused('compareAndDelete of another value', 101, 'compareAndDelete', 'n/c', 'x');
  equal('testAndDelete', (await call('testAndDelete', 'n/c', 'five')).action, 'compareAndDelete');
  await call('set', 'n/c', 'x');
  equal('del', (await call('del', 'n/c')).action, 'delete');
  await refused('del of nothing', 100, 'delete', 'n/c');
  body = await call('raw', 'PUT', 'v2/keys/n/raw', 'r', {});
  equal('raw', body.node.value, 'r');
  equal('raw get', (await call('raw', 'GET', 'v2/keys/n/raw', null, {})).node.value, 'r');
}

async function directories() {
  console.log('== directories');
  equal('mkdir', (await call('mkdir', 'n/d')).node.dir, true);
  await refused('mkdir of a directory', 102, 'mkdir', 'n/d');
  await call('set', 'n/d/x', '1');
  await call('set', 'n/d/e/y', '2');
  const body = await call('get', 'n/d', { recursive: true, sorted: true });
  equal('listing', body.node.nodes.map((n) => n.key), ['/n/d/e', '/n/d/x']);
  await refused('rmdir of a full directory', 108, 'rmdir', 'n/d');
  equal('recursive', (await call('rmdir', 'n/d', { recursive: true })).action, 'delete');
  const first = await call('create', 'n/q', 'first');
  const second = await call('post', 'n/q', 'second');
  equal('in-order keys', first.node.key < second.node.key && first.node.key.length, '/n/q/'.length + 20);
}

async function lifetimes() {
  console.log('== time to live');
  equal('ttl', (await call('set', 'n/t', '1', { ttl: 300 })).node.ttl, 300);
  equal('refresh', (await call('set', 'n/t', null, { ttl: 500, refresh: true, prevExist: true })).node.value, '1');
  const brief = await call('set', 'n/brief', '1', { ttl: 1 });
  equal('expiry', (await call('watchIndex', 'n/brief', brief.node.modifiedIndex + 1)).action, 'expire');
  await refused('an expired key', 100, 'get', 'n/brief');
}

async function watching() {
  console.log('== watching');
  const past = (await call('set', 'n/w', '1')).node.modifiedIndex;
  await call('set', 'n/w', '2');
  equal('watch of the past', (await call('watchIndex', 'n/w', past)).node.value, '1');
  const watcher = etcd.watcher('n/s', past, { recursive: true });
  const seen = [];
  watcher.on('change', (body) => seen.push(body.action + ' ' + body.node.key));
  for (const [what, act] of [['set', () => call('set', 'n/s/a', '1')], ['delete', () => call('del', 'n/s/a')], ['create', () => call('create', 'n/s', '2')]]) {
    const heard = event(watcher, what);
    await act();
    await heard;
  }
  watcher.stop();
  equal('a watcher', seen.map((line) => line.replace(/\d{20}/, 'IN-ORDER')), ['set /n/s/a', 'delete /n/s/a', 'create /n/s/IN-ORDER']);
  for (let i = 0; i < 1001; i++) await call('set', 'n/many', String(i));
  await refused('a watch of what is forgotten', 401, 'watchIndex', 'n/w', past);
  const late = etcd.watcher('n/w', past);
  const resynced = await event(late, 'resync');
  equal('a late watcher catches up', resynced.errorCode, 401);
  const heard = event(late, 'change');
  await call('set', 'n/w', '3');
  equal('and goes on', (await heard).node.value, '3');
  late.stop();
  const token = etcd.watch('n/w', () => fail('a cancelled watch has called back'));
  token.cancel();
  equal('cancelled', token.isAborted(), true);
}

async function cluster() {
  console.log('== the cluster');
  const self = await call('selfStats');
  equal('selfStats', [typeof self.id, self.state], ['string', 'StateLeader']);
  equal('leaderStats', (await call('leaderStats')).leader, self.id);
  equal('version', JSON.stringify(await call('version')).includes('3.'), true);
  equal('getHosts', etcd.getHosts(), [url]);
  const dead = new Etcd(['http://127.0.0.1:1', url]);
  equal('a list with a dead host', (await promisify(dead.get).call(dead, 'n/a')).node.key, '/n/a');
  await refused('machines, as etcd 0.4 kept them', 100, 'machines');
}

function synchronous() {
  console.log('== without callbacks');
  equal('setSync', etcd.setSync('n/sync', '1').body.node.value, '1');
  equal('getSync', etcd.getSync('n/sync').body.node.value, '1');
  equal('delSync', etcd.delSync('n/sync').body.action, 'delete');
  equal('mkdirSync', etcd.mkdirSync('n/syncdir').body.action, 'set');
  equal('rmdirSync', etcd.rmdirSync('n/syncdir').body.action, 'delete');
}

keys().then(directories).then(lifetimes).then(watching).then(cluster).then(synchronous).then(() => {
  console.log('== done');
  clearTimeout(deadline);
}, (err) => fail(err.stack));
