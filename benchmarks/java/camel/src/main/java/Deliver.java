import java.nio.file.Path;
import org.apache.camel.Exchange;
import org.apache.camel.builder.RouteBuilder;
import org.apache.camel.impl.DefaultCamelContext;

/** Apache Camel from Kafka to HTTP: as many consumers as partitions, its default error handler. */
public final class Deliver {
  private static final int PARTITIONS = 12;

  public static void main(String[] arguments) throws Exception {
    var environment = System.getenv();
    var events = new Events(Path.of(environment.get("SCHEMA")));
    var context = new DefaultCamelContext();
    context.addRoutes(
        new RouteBuilder() {
          @Override
          public void configure() {
            from("kafka:"
                    + environment.get("TOPIC")
                    + "?brokers=" + environment.get("BOOTSTRAP")
                    + "&groupId=" + environment.get("GROUP")
                    + "&consumersCount=" + PARTITIONS
                    + "&autoOffsetReset=earliest"
                    + "&valueDeserializer=org.apache.kafka.common.serialization.ByteArrayDeserializer")
                .process(
                    exchange -> {
                      var message = exchange.getMessage();
                      byte[] body = events.bodyOf(message.getBody(byte[].class));
                      message.removeHeaders("*");
                      message.setHeader(Exchange.HTTP_METHOD, "POST");
                      message.setHeader(Exchange.CONTENT_TYPE, "application/json");
                      message.setBody(body);
                    })
                .to(environment.get("TARGET_URL") + "/events?connectionsPerRoute=" + PARTITIONS);
          }
        });
    context.start();
    Thread.currentThread().join();
  }
}
